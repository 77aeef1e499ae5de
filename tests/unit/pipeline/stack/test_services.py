"""How each service is started: on loopback, secrets off the command line, addresses checked."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.errors import ServiceError, SettingsError
from pipeline.settings import HOME_VARIABLE, Settings
from pipeline.stack import foundations, services
from pipeline.stack.home import prepare_home
from pipeline.stack.processes import Processes
from tests.services.mongod import free_port


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(HOME_VARIABLE, "to be put back")
    monkeypatch.setenv(foundations.LABEL_STUDIO_VARIABLE, "/bin/true")
    return prepare_home(tmp_path)


def secrets_of(settings: Settings) -> list[str]:
    found = [settings.label_studio.password, settings.label_studio.token, settings.backend.password]
    return [secret.get_secret_value() for secret in found] + [
        str(urlsplit(settings.redis_url).password),
        str(urlsplit(settings.fiftyone.database_uri).password),
    ]


def test_no_secret_stands_on_a_command_line(settings: Settings) -> None:
    for make in (
        foundations.redis_service,
        foundations.mongod_service,
        foundations.label_studio_service,
        services.backend_service,
        services.worker_service,
        services.trainer_service,
        services.beat_service,
        services.fiftyone_service,
    ):
        line = " ".join(make(settings).command)
        assert not any(secret in line for secret in secrets_of(settings)), make.__name__
    assert stat.S_IMODE((settings.home / "redis" / "redis.conf").stat().st_mode) == 0o600


def test_label_studio_is_private_and_talks_to_a_backend_on_loopback(settings: Settings) -> None:
    service = foundations.label_studio_service(settings)

    assert service.environment["USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert service.environment["COLLECT_ANALYTICS"] == "false"
    assert service.environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert service.environment["LABEL_STUDIO_BASE_DATA_DIR"].startswith(str(settings.home))
    assert "127.0.0.1" in service.command
    assert not service.inherit


@pytest.mark.parametrize("url", ["redis://cache.example:6379/0", "redis://127.0.0.1/0", "nothing"])
def test_an_address_elsewhere_is_one_sentence(settings: Settings, url: str) -> None:
    with pytest.raises(SettingsError, match="redis_url is not an address like 127.0.0.1:PORT"):
        foundations.redis_service(settings.model_copy(update={"redis_url": url}))


def test_label_studio_not_installed_is_one_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(foundations.LABEL_STUDIO_VARIABLE, "/nowhere/label-studio")
    monkeypatch.setattr(foundations, "LABEL_STUDIO_FOLDER", "not-there")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ServiceError, match="not installed .*run `make install`"):
        foundations.label_studio_service(settings)


def test_redis_starts_keeps_its_messages_and_asks_for_its_password(settings: Settings) -> None:
    from redis import Redis
    from redis.exceptions import AuthenticationError

    address = f"redis://:secret@127.0.0.1:{free_port()}/0"
    settings = settings.model_copy(update={"redis_url": address})
    for start in range(2):
        with Processes(settings.home) as processes:
            processes.start(foundations.redis_service(settings))
            processes.wait(foundations.REDIS)
            with Redis.from_url(address) as redis:
                assert redis.llen("queue") == start
                redis.lpush("queue", "message")
            with (
                Redis.from_url(address.replace(":secret@", "")) as stranger,
                pytest.raises(AuthenticationError),
            ):
                stranger.ping()
