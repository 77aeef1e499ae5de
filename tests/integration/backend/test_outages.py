"""What annotators see while Redis hangs or the disc is full: their masks, as always."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from pipeline.queue import EVENTS_QUEUE
from pipeline.record.tables import Event
from pipeline.settings import Settings
from tests.editor import (
    ON_BALL,
    ON_BALL_TOO,
    Editor,
    backend,
    click,
    log_of,
    photograph,
    rows,
    save,
    settings_for,
)
from tests.services.redis import RedisServer

pytestmark = pytest.mark.integration

WEBHOOKS = 60
SOON = 10.0  # seconds, on a busy machine; a click that waits for Redis waits for ever
DISC_MB = 40  # of which maskloop counts the last 20 MB as full
PATIENCE = 60.0


def webhook(number: int) -> dict[str, Any]:
    annotation = {"id": number, "updated_at": "2026-11-22T06:43:07Z"}
    return {"action": "ANNOTATION_CREATED", "annotation": annotation, "task": {"id": 1}}


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_redis_that_hangs_holds_up_no_click_and_loses_no_webhook(
    tmp_path: Path, hanging: RedisServer
) -> None:
    settings = settings_for(tmp_path / "home").model_copy(update={"redis_url": hanging.url})
    save(photograph(), tmp_path / "home" / "files" / "balls.png")
    process = psutil.Process(hanging.pid)
    with backend(settings) as client:
        editor = Editor(client)
        editor.mask(click("a", *ON_BALL))  # The image is encoded.
        process.suspend()
        try:
            with ThreadPoolExecutor(WEBHOOKS) as pool:
                sent = list(pool.map(lambda n: post(client, webhook(n)), range(WEBHOOKS)))
            assert set(sent) == {201}
            for number in range(3):
                begin = time.monotonic()
                assert editor.mask(click(f"b{number}", *ON_BALL_TOO)).any()
                assert client.get("/health").is_success
                assert client.get("/ready").is_success
                assert time.monotonic() - begin < SOON
            assert len(rows(settings, Event)) == WEBHOOKS
        finally:
            process.resume()
        deadline = time.monotonic() + PATIENCE
        with Redis.from_url(hanging.url) as redis:
            while redis.llen(EVENTS_QUEUE) < WEBHOOKS:  # unattended
                assert time.monotonic() < deadline, "the messages never came"
                time.sleep(0.1)


def post(client: httpx.Client, body: dict[str, Any]) -> int:
    return client.post("/webhook", json=body).status_code


@pytest.fixture
def small_disc(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disc"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISC_MB}m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disc")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_clicks_go_on_while_the_disc_is_full_and_say_so(small_disc: Path) -> None:
    # A file on that disc, whatever the other tests use: PostgreSQL has discs of its own.
    address = f"sqlite:///{small_disc / 'home' / 'maskloop.sqlite3'}"
    settings = settings_for(small_disc / "home").model_copy(update={"database_url": address})
    save(photograph(), small_disc / "home" / "files" / "balls.png")
    with backend(settings) as client:
        editor = Editor(client)
        first = editor.mask(click("a", *ON_BALL))
        logged = len(log_of(settings, editor))
        assert client.get("/ready").json()["status"] == "READY"
        filler = fill(small_disc)
        region, notice = editor.told(click("a", *ON_BALL), click("b", *ON_BALL_TOO))
        assert region is not None
        assert "could not be written to the log" in notice
        again, notice = editor.told(click("c", *ON_BALL))
        assert again is not None
        assert len(log_of(settings, editor)) == logged
        assert "maskloop_unlogged_clicks_total 2.0" in client.get("/metrics").text
        ready = client.get("/ready")
        assert ready.status_code == 503
        assert f"The disc under {small_disc}" in ready.json()["error"]
        assert client.post("/webhook", json=webhook(1)).status_code == 503  # Nothing is promised.

        filler.unlink()
        assert client.get("/ready").is_success
        assert client.post("/webhook", json=webhook(1)).status_code == 201
        region, notice = editor.told(click("d", *ON_BALL))
        assert region is not None and "log" not in notice
        assert len(log_of(settings, editor)) == logged + 1
        assert first.any()


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return path


def test_settings_without_a_password_are_a_loud_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: Settings = settings_for(tmp_path / "home")
    with backend(settings), caplog.at_level("WARNING"):
        assert "The backend asks for no password" in caplog.text
