"""Settings: their names and limits, and the ports that one of them moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import SettingsError
from pipeline.settings import (
    BackendSettings,
    FiftyOneSettings,
    LabelStudioSettings,
    Settings,
    load_settings,
)


def test_an_offset_moves_every_port_of_this_machine_and_no_other(tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        port_offset=100,
        redis_url="redis://:p%40ss@127.0.0.1:6390/0",
        label_studio=LabelStudioSettings(url="https://labels.example:8080"),
        backend=BackendSettings(public_url="http://localhost:9090"),
        fiftyone=FiftyOneSettings(database_uri="mongodb://me:secret@127.0.0.1:27027/?authSource=x"),
    )
    assert settings.redis_url == "redis://:p%40ss@127.0.0.1:6490/0"
    assert settings.label_studio.url == "https://labels.example:8080"
    assert (settings.backend.url, settings.backend.port) == ("http://127.0.0.1:9190", 9190)
    assert settings.backend.public_url == "http://localhost:9190"
    assert settings.fiftyone.port == 5251
    assert settings.fiftyone.database_uri == "mongodb://me:secret@127.0.0.1:27127/?authSource=x"
    assert settings.model_copy(update={"log_level": "DEBUG"}).redis_url == settings.redis_url


def test_without_an_offset_nothing_moves(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert (settings.backend.port, settings.fiftyone.port) == (9090, 5151)
    assert settings.label_studio.url == "http://127.0.0.1:8080"


@pytest.mark.parametrize("offset", ["-1", "60000", "many"])
def test_an_offset_that_leads_nowhere_is_one_sentence(
    offset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKLOOP_PORT_OFFSET", offset)
    with pytest.raises(SettingsError, match="port_offset"):
        load_settings()
