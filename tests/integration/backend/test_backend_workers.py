"""Several uvicorn workers behind one address: each can answer without a /setup before it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from pipeline.settings import Settings
from tests.editor import Editor, click, photograph, save

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WORKERS = 3
START_SECONDS = 180


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    (tmp_path / "files").mkdir()
    save(photograph(), tmp_path / "files" / "balls.png")
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MASKLOOP_HOME": str(tmp_path),
        "MASKLOOP_IMAGES__FILES_ROOT": str(tmp_path / "files"),
        "MASKLOOP_MODEL__DEVICE": "cpu",
        "MASKLOOP_DATABASE_URL": Settings(home=tmp_path).sql_url,
        "MASKLOOP_REDIS_URL": "redis://127.0.0.1:1/0",
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "backend.http.app:create_app"]
    command += ["--port", str(port), "--workers", str(WORKERS)]
    process = subprocess.Popen(
        command, env=environment, cwd=Path(__file__).parents[3], start_new_session=True
    )
    try:
        address = f"http://127.0.0.1:{port}"
        # Connections are not kept, so that any worker may answer each request.
        limits = httpx.Limits(max_keepalive_connections=0)
        with httpx.Client(base_url=address, limits=limits, timeout=100, trust_env=False) as client:
            _wait(client, process)
            yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _wait(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            client.get("/health", timeout=1)
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail("the backend did not start; its log stands above")


def test_a_session_lives_on_whoever_answers(client: httpx.Client) -> None:
    editor = Editor(client)
    marks = [click(str(k), 28 + k, 45 + k, positive=k % 4 != 3) for k in range(12)]
    regions = [editor.ask(*marks[:count]) for count in range(1, len(marks) + 1)]
    assert len({region["id"] for region in regions if region is not None}) == 1
    assert client.get("/ready").status_code == 200
