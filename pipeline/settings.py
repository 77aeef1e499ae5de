"""Every setting of maskloop, typed and in one place, which is why this is longer than 300 lines.

A value comes from the first of these that has it: environment variables (``MASKLOOP_`` and ``__``
between levels, as in ``MASKLOOP_LABEL_STUDIO__URL``), ``maskloop.toml`` in the home folder, and the
defaults.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from pipeline.errors import SettingsError

HOME_VARIABLE = "MASKLOOP_HOME"
SETTINGS_FILE = "maskloop.toml"


class Section(BaseModel):
    """A group of settings; an unknown name in it is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelStudioSettings(Section):
    url: str = Field("http://127.0.0.1:8080", description="Address of Label Studio for maskloop.")
    token: SecretStr = Field(
        SecretStr(""), description="Legacy token or personal access token of the account to use."
    )
    user: str = Field("", description="Login that `maskloop up` makes in Label Studio.")
    password: SecretStr = Field(SecretStr(""), description="Password of that login.")
    project: int | None = Field(None, description="Number of the project for scheduled jobs.")
    poll_seconds: float = Field(60, gt=0, description="Seconds between two reconcile passes.")
    outline_tolerance: float = Field(
        0.002,
        ge=0,
        le=0.1,
        description="How far polygons may be off the mask's edge, as a share of the image's longer "
        "side; the limit is smaller for small objects.",
    )


class BackendSettings(Section):
    url: str = Field(
        "http://127.0.0.1:9090", description="Address of the backend for Label Studio."
    )
    public_url: str = Field(
        "",
        description="Address of the backend for annotators' browsers, which need it for a live "
        "notice in the labelling page; empty: the same as url if Label Studio and the backend are "
        "on this machine, else there is no live notice.",
    )
    host: str = Field("127.0.0.1", description="Address that the server listens on.")
    port: int = Field(9090, ge=1, le=65535, description="Port that the server listens on.")
    user: str = Field("maskloop", description="HTTP Basic user that Label Studio must send.")
    password: SecretStr = Field(
        SecretStr(""), description="HTTP Basic password; empty: none is asked for."
    )
    max_body_bytes: int = Field(
        32_000_000,
        gt=0,
        description="Largest request read, in bytes; each click brings all drafts of its task.",
    )
    max_reply_bytes: int = Field(4_000_000, gt=0, description="Largest reply sent, in bytes.")
    prefetch: int = Field(
        3, ge=0, le=50, description="Number of next tasks whose embeddings are prepared."
    )
    draft_seconds: float = Field(
        7, ge=0, le=60, description="Longest wait for a draft with drawn hints, in seconds."
    )


class ImageSettings(Section):
    files_root: Path | None = Field(
        None, description="Folder whose files are at /data/local-files/; no path may leave it."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts besides Label Studio's own that images may be fetched from."
    )
    allow_private: bool = Field(
        False, description="Whether a name in allowed_hosts may resolve to a private address."
    )
    s3_buckets: tuple[str, ...] = Field(
        (), description="Buckets that images may be fetched from as s3://bucket/name."
    )
    s3_endpoint: str = Field(
        "", description="Address of an S3 server; empty: AWS_ENDPOINT_URL_S3, else Amazon's own."
    )
    s3_region: str = Field(
        "", description="Region of the buckets; empty: AWS_DEFAULT_REGION, else us-east-1."
    )
    s3_key: str = Field(
        "", description="Access key id for the buckets; empty: from the environment or the role."
    )
    s3_secret: SecretStr = Field(SecretStr(""), description="Secret of that access key.")
    max_bytes: int = Field(100_000_000, gt=0, description="Largest image file read, in bytes.")
    max_pixels: int = Field(50_000_000, gt=0, description="Largest image decoded, in pixels.")
    timeout_seconds: float = Field(20, gt=0, description="Limit for fetching one image.")
    cache_mb: int = Field(
        256, ge=0, description="Memory for decoded images in each process that answers, in MB."
    )


class ModelSettings(Section):
    base: Path | None = Field(
        None,
        description="Checkpoint file, or name of a model version, that fine-tunes start from; "
        "none: the checkpoint that comes with maskloop.",
    )
    device: str = Field("auto", description="torch device; auto: cuda if there is one, else cpu.")
    threads: int = Field(0, ge=0, description="torch CPU threads; 0: torch decides.")
    cache_mb: int = Field(512, ge=16, description="Memory for embeddings in each process, in MB.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of most of a serving network's arithmetic; auto: fp16 on a GPU, "
        "bf16 for the large network on a CPU where that is faster, else fp32.",
    )
    compile: bool = Field(
        False,
        description="Whether the backend runs torch.compile before it is ready; this takes "
        "minutes and, on a CPU, needs a C++ compiler.",
    )
    second_look: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether to encode a small object again from a window around it; auto: if that "
        "is quick, which it is with the small network or on a GPU.",
    )


class FineTuneSettings(Section):
    min_new_regions: int = Field(
        20, ge=1, description="Regions accepted since the last snapshot that start a fine-tune."
    )
    every_hours: float = Field(24, gt=0, description="Hours between scheduled fine-tunes.")
    steps: int = Field(300, ge=1, description="Optimiser steps of one fine-tune.")
    batch: int = Field(8, ge=1, description="Regions in one step.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")
    holdout_share: float = Field(0.2, gt=0, lt=1, description="Share of images never trained on.")
    min_holdout_regions: int = Field(
        3, ge=1, description="With fewer accepted hold-out regions, nothing is promoted."
    )
    gate_clicks: int = Field(
        20, ge=5, le=20, description="Simulated clicks on each hold-out region in the gate."
    )
    seed: int = Field(0, description="Seed of sampling and simulated clicks.")


class SelectionSettings(Section):
    size: int = Field(20, ge=1, description="Tasks in one round.")
    random_share: float = Field(0.15, ge=0, le=1, description="Share of a round drawn at random.")
    duplicate_similarity: float = Field(
        0.98, gt=0, le=1, description="Cosine similarity at which images count as duplicates."
    )
    beta: float = Field(1.0, ge=0, description="Weight of hardness against noise; rises by round.")
    seed: int = Field(0, description="Seed of strata, noise and the random slice.")


class WorkerSettings(Section):
    check_seconds: float = Field(
        180, gt=0, description="Seconds between two checks whether a fine-tune or a round is due."
    )
    mirror_seconds: float = Field(300, gt=0, description="Seconds between two FiftyOne mirrors.")
    visibility_seconds: int = Field(
        900, ge=4, description="Seconds after which a dead worker's task goes to another worker."
    )


class RetentionSettings(Section):
    events_days: int = Field(30, ge=1, description="Days that handled webhooks are kept.")
    replies_days: int = Field(
        90,
        ge=1,
        description="Days that the model's replies between the first and the last of an accepted "
        "region are kept.",
    )
    jobs_days: int = Field(90, ge=1, description="Days that rows of ended jobs are kept.")
    refused_days: int = Field(
        30, ge=1, description="Days that weights are kept that the gate refused."
    )
    snapshots: int = Field(5, ge=1, description="Number of judged snapshots whose masks are kept.")


class FiftyOneSettings(Section):
    database_uri: str = Field("mongodb://127.0.0.1:27017", description="Address of mongod.")
    dataset: str = Field("maskloop", description="Name of the mirrored dataset.")
    host: str = Field("127.0.0.1", description="Address that the App listens on.")
    port: int = Field(5151, ge=1, le=65535, description="Port that the App listens on.")
    password: SecretStr = Field(
        SecretStr(""), description="Password of the App for backend.user; empty: the backend's."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Names besides this machine's own by which browsers may call the App."
    )
    media_folders: tuple[Path, ...] = Field(
        (), description="Folders besides maskloop's own whose files the App may hand out."
    )


class Settings(BaseSettings):
    """All settings. Immutable; made once at a process's entry point by ``load_settings``."""

    model_config = SettingsConfigDict(
        env_prefix="MASKLOOP_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(Path(".maskloop"), description="Folder for all state on this machine.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Lowest level of the messages that are logged."
    )
    port_offset: int = Field(
        0,
        ge=0,
        le=50_000,
        description="Added to every port of this machine that a setting names, for a second "
        "maskloop beside the first.",
    )
    database_url: str = Field("", description="SQLAlchemy address; empty: SQLite in home.")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Celery's broker.")
    store_url: str = Field("", description="fsspec address of the store; empty: in home.")
    label_studio: LabelStudioSettings = LabelStudioSettings()
    backend: BackendSettings = BackendSettings()
    images: ImageSettings = ImageSettings()
    model: ModelSettings = ModelSettings()
    finetune: FineTuneSettings = FineTuneSettings()
    selection: SelectionSettings = SelectionSettings()
    workers: WorkerSettings = WorkerSettings()
    fiftyone: FiftyOneSettings = FiftyOneSettings()
    retention: RetentionSettings = RetentionSettings()

    @model_validator(mode="after")
    def _move_ports(self) -> Self:
        if self.port_offset:
            moved = _moved(self, self.port_offset)
            for name, value in moved.items():  # The settings are immutable once they are made.
                object.__setattr__(self, name, value)
        return self

    @property
    def sql_url(self) -> str:
        """Address of the database, with the default filled in."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'maskloop.sqlite3'}"

    @property
    def browser_url(self) -> str:
        """Address of the backend for annotators' browsers; empty: they cannot reach it."""
        urls = self.backend.url, self.label_studio.url
        here = all(map(_is_here, urls))
        return (self.backend.public_url or (self.backend.url if here else "")).rstrip("/")

    @property
    def fiftyone_login(self) -> tuple[str, str]:
        """User and password of the FiftyOne App; an empty password means that none is asked for."""
        password = self.fiftyone.password.get_secret_value()
        return self.backend.user, password or self.backend.password.get_secret_value()

    @property
    def store_address(self) -> str:
        """fsspec address of the store of images, embeddings and weights, with the default."""
        return self.store_url or str(self.home.resolve() / "store")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        home = Path(os.environ.get(HOME_VARIABLE, ".maskloop"))
        toml = TomlConfigSettingsSource(settings_cls, toml_file=home / SETTINGS_FILE)
        return (init_settings, env_settings, toml)


def _moved(settings: Settings, offset: int) -> dict[str, Any]:
    """The settings that name a port of this machine, with all of these ports raised."""
    label_studio, backend, fiftyone = settings.label_studio, settings.backend, settings.fiftyone
    return {
        "redis_url": _raise_port(settings.redis_url, offset),
        "label_studio": label_studio.model_copy(
            update={"url": _raise_port(label_studio.url, offset)}
        ),
        "backend": backend.model_copy(
            update={
                "url": _raise_port(backend.url, offset),
                "public_url": _raise_port(backend.public_url, offset),
                "port": backend.port + offset,
            }
        ),
        "fiftyone": fiftyone.model_copy(
            update={
                "database_uri": _raise_port(fiftyone.database_uri, offset),
                "port": fiftyone.port + offset,
            }
        ),
    }


def _raise_port(url: str, offset: int) -> str:
    """``url`` with its port raised; as it is when it names another machine or no port."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return url
    if port is None or not _is_here(url):
        return url
    host = parts.netloc.removesuffix(f":{port}")
    return parts._replace(netloc=f"{host}:{port + offset}").geturl()


def _is_here(url: str) -> bool:
    try:
        return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    except ValueError:  # An address with an unmatched bracket.
        return False


def load_settings() -> Settings:
    """Read the settings of this process.

    Raises:
        SettingsError: a value cannot be used, or a name is unknown; the message names each.
    """
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise SettingsError(
            f"Settings cannot be used ({faults}); "
            f"correct them in the environment or {SETTINGS_FILE}."
        ) from None
    except ValueError as error:  # tomllib's error for a file that is not TOML
        raise SettingsError(
            f"{SETTINGS_FILE} in the home folder is not valid TOML ({error}); mend or remove it."
        ) from None
