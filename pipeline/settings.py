"""Every setting of maskloop, typed and in one place.

Values come from, strongest first: environment variables (``MASKLOOP_`` and ``__`` between levels,
as in ``MASKLOOP_LABEL_STUDIO__URL``), then ``maskloop.toml`` in the home folder, then the defaults.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
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
    """A group of settings; a name it does not know is an error, not silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelStudioSettings(Section):
    url: str = Field("http://127.0.0.1:8080", description="Address maskloop calls Label Studio at.")
    token: SecretStr = Field(
        SecretStr(""), description="Legacy token or personal access token of the account to use."
    )
    user: str = Field("", description="Login `maskloop up` makes in the Label Studio it starts.")
    password: SecretStr = Field(SecretStr(""), description="Password of that login.")
    project: int | None = Field(None, description="Project the scheduled jobs work on.")
    poll_seconds: float = Field(60, gt=0, description="Seconds between two reconcile passes.")
    outline_tolerance: float = Field(
        0.002,
        ge=0,
        le=0.1,
        description="How far polygons may be off the mask's edge, as a share of the image's longer "
        "side; small objects get less.",
    )


class BackendSettings(Section):
    url: str = Field("http://127.0.0.1:9090", description="Address Label Studio calls us at.")
    public_url: str = Field(
        "",
        description="Address annotators' browsers reach us at, for a live notice in the labelling "
        "page; empty: url where that and Label Studio are on this machine, else no live notice.",
    )
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(9090, ge=1, le=65535, description="Port the server listens on.")
    user: str = Field("maskloop", description="HTTP Basic user Label Studio must send.")
    password: SecretStr = Field(SecretStr(""), description="HTTP Basic password; empty: no auth.")
    max_reply_bytes: int = Field(4_000_000, gt=0, description="Largest reply sent, in bytes.")
    prefetch: int = Field(
        3, ge=0, le=50, description="Tasks after the opened one whose embeddings are made ready."
    )
    draft_seconds: float = Field(
        7, ge=0, le=60, description="Longest wait for a draft with the hints that were drawn."
    )


class ImageSettings(Section):
    files_root: Path | None = Field(
        None, description="Folder behind /data/local-files/; no path may leave it."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts besides Label Studio's own that images may be fetched from."
    )
    allow_private: bool = Field(
        False, description="Whether a name in allowed_hosts may stand for a private address."
    )
    s3_buckets: tuple[str, ...] = Field(
        (), description="Buckets that images may be fetched from as s3://bucket/name."
    )
    s3_endpoint: str = Field(
        "", description="Address of an S3 server; empty: AWS_ENDPOINT_URL_S3, or Amazon's own."
    )
    s3_region: str = Field(
        "", description="Region of the buckets; empty: AWS_DEFAULT_REGION, or us-east-1."
    )
    s3_key: str = Field(
        "", description="Access key id for the buckets; empty: the environment's, or the role's."
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
        description="Checkpoint file, or the name of a model version, that fine-tunes start from; "
        "none: the one that ships.",
    )
    device: str = Field("auto", description="torch device; auto: cuda where there is one, or cpu.")
    threads: int = Field(0, ge=0, description="torch CPU threads; 0: torch decides.")
    cache_mb: int = Field(512, ge=16, description="Memory for embeddings in each process, in MB.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Precision of most of a serving network's arithmetic; auto: fp16 on a GPU, "
        "bf16 for the large network on a CPU where it pays, else fp32.",
    )
    compile: bool = Field(
        False,
        description="torch.compile in the backend, before it is ready; takes minutes and, on a "
        "CPU, a C++ compiler.",
    )
    second_look: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Encode a small object again from a window around it; auto: where that is "
        "quick, with the small network or on a GPU.",
    )


class FineTuneSettings(Section):
    min_new_regions: int = Field(
        20, ge=1, description="Accepted regions since the last snapshot that start a fine-tune."
    )
    every_hours: float = Field(24, gt=0, description="Hours between scheduled fine-tunes.")
    steps: int = Field(300, ge=1, description="Optimiser steps of one fine-tune.")
    batch: int = Field(8, ge=1, description="Regions in one step.")
    learning_rate: float = Field(1e-4, gt=0, description="Peak learning rate.")
    holdout_share: float = Field(0.2, gt=0, lt=1, description="Share of images never trained on.")
    min_holdout_regions: int = Field(
        3, ge=1, description="Accepted hold-out regions below which nothing may be promoted."
    )
    gate_clicks: int = Field(
        20, ge=5, le=20, description="Simulated clicks on each hold-out region in the gate."
    )
    seed: int = Field(0, description="Seed of sampling and simulated clicks.")


class SelectionSettings(Section):
    size: int = Field(20, ge=1, description="Tasks in one round.")
    random_share: float = Field(0.15, ge=0, le=1, description="Share of a round drawn at random.")
    duplicate_similarity: float = Field(
        0.98, gt=0, le=1, description="Cosine similarity from which two images are one."
    )
    beta: float = Field(1.0, ge=0, description="Weight of hardness against noise; rises by round.")
    seed: int = Field(0, description="Seed of strata, noise and the random slice.")


class WorkerSettings(Section):
    check_seconds: float = Field(
        180, gt=0, description="Seconds between two checks whether a fine-tune is due."
    )
    mirror_seconds: float = Field(300, gt=0, description="Seconds between two FiftyOne mirrors.")
    visibility_seconds: int = Field(
        900, ge=4, description="Seconds after which Redis hands a dead worker's task to another."
    )


class FiftyOneSettings(Section):
    database_uri: str = Field("mongodb://127.0.0.1:27017", description="Address of mongod.")
    dataset: str = Field("maskloop", description="Name of the mirrored dataset.")
    host: str = Field("127.0.0.1", description="Address the App listens on.")
    port: int = Field(5151, ge=1, le=65535, description="Port the App listens on.")


class Settings(BaseSettings):
    """All settings. Immutable; made once at a process's entry point by ``load_settings``."""

    model_config = SettingsConfigDict(
        env_prefix="MASKLOOP_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Field(Path(".maskloop"), description="Folder of all state on this machine.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    database_url: str = Field("", description="SQLAlchemy address; empty: SQLite in the home.")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Celery's broker.")
    store_url: str = Field("", description="fsspec address of the store; empty: the home folder.")
    label_studio: LabelStudioSettings = LabelStudioSettings()
    backend: BackendSettings = BackendSettings()
    images: ImageSettings = ImageSettings()
    model: ModelSettings = ModelSettings()
    finetune: FineTuneSettings = FineTuneSettings()
    selection: SelectionSettings = SelectionSettings()
    workers: WorkerSettings = WorkerSettings()
    fiftyone: FiftyOneSettings = FiftyOneSettings()

    @property
    def sql_url(self) -> str:
        """Address of the database, with the default filled in."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'maskloop.sqlite3'}"

    @property
    def browser_url(self) -> str:
        """Address annotators' browsers reach the backend at; empty: they may not."""
        urls = self.backend.url, self.label_studio.url
        here = all(map(_is_here, urls))
        return (self.backend.public_url or (self.backend.url if here else "")).rstrip("/")

    @property
    def store_address(self) -> str:
        """fsspec address of the store of embeddings, masks and weights, with the default."""
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


def _is_here(url: str) -> bool:
    try:
        return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    except ValueError:  # a bracket too many
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
            f"Settings cannot be used ({faults}); mend them in the environment or {SETTINGS_FILE}."
        ) from None
    except ValueError as error:  # tomllib's error for a file that is not TOML
        raise SettingsError(
            f"{SETTINGS_FILE} in the home folder is not valid TOML ({error}); mend or remove it."
        ) from None
