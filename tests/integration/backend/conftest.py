"""A backend with its photographs; modules that need another override fixtures of these names."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from pipeline.settings import Settings
from tests.editor import Editor, backend, photograph, save, settings_for


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    made = settings_for(home)
    save(photograph(), home / "files" / "balls.png")
    save(photograph(balls=1), home / "files" / "one-ball.png")
    save(photograph(), home / "files" / "turned.jpg", orientation=6)
    save(photograph(), home / "files" / "upright.jpg")
    (home / "files" / "notes.png").write_text("This is no picture.")
    (home / "secret.png").write_bytes((home / "files" / "balls.png").read_bytes())
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with backend(settings) as running:
        yield running


@pytest.fixture
def editor(client: httpx.Client) -> Editor:
    _TASKS[0] += 1
    return Editor(client, task=_TASKS[0])


_TASKS = [100]  # each test has its own task, so that click logs stay separate
