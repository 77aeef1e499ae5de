"""A real mongod for the tests that need FiftyOne, on a free port.

It is started once for the whole run, because a process can use FiftyOne with one database only. See
``tests/conftest.py``.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ServiceError
from pipeline.mirror.mongod import find_mongod, mongod_command, ping_mongod

START_SECONDS = 20.0


def free_port() -> int:
    """A free TCP port on loopback."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running_mongod(folder: Path) -> Iterator[str]:
    """The address of a mongod that runs until the block ends, with its data in ``folder``.

    Raises:
        ServiceError: there is no mongod on this machine, or it did not start.
    """
    port = free_port()
    data = folder / "data"
    data.mkdir(parents=True)
    with (folder / "mongod.log").open("wb") as log:
        process = subprocess.Popen(
            mongod_command(find_mongod(), data, port), stdout=log, stderr=subprocess.STDOUT
        )
    uri = f"mongodb://127.0.0.1:{port}"
    try:
        _wait(process, uri)
        yield uri
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def mongod_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a mongod of this test session; skips the test where the machine has no mongod."""
    try:
        find_mongod()
    except ServiceError as error:
        pytest.skip(str(error))
    with running_mongod(tmp_path_factory.mktemp("mongod")) as uri:
        yield uri


def _wait(process: subprocess.Popen[bytes], uri: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if process.poll() is not None:
            raise ServiceError("mongod ended at once; read mongod.log in its folder.")
        try:
            ping_mongod(uri, seconds=0.5)
            return
        except ServiceError:
            if time.monotonic() > deadline:
                raise
