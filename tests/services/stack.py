"""The whole stack for tests: ``maskloop up`` in a separate home folder, on free ports."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.errors import ServiceError
from pipeline.mirror.mongod import find_mongod
from pipeline.settings import HOME_VARIABLE, Settings
from pipeline.stack.processes import leftovers, stop_all
from tests.services.label_studio import label_studio_binary
from tests.services.mongod import free_port

UP = "every setting:"  # in the last line of a start
FIRST_START_SECONDS = 420  # two cores, all of Label Studio's migrations, twelve images
DOWN_SECONDS = 60


@dataclass
class Stack:
    """A home folder, its environment, and ``maskloop`` commands on it."""

    home: Path
    environment: dict[str, str]
    output: Path
    running: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> list[str]:
        return [str(Path(sys.executable).parent / "maskloop"), *arguments]

    def up(self, seconds: float) -> float:
        """Start and wait for the last line; returns the seconds it took."""
        begin = time.monotonic()
        with self.output.open("wb") as output:
            self.running = subprocess.Popen(
                self.command("up"),
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while UP not in self.said():
            if self.running.poll() is not None:
                pytest.fail(f"maskloop up ended ({self.running.returncode}):\n{self.said()}")
            if time.monotonic() - begin > seconds:
                pytest.fail(f"maskloop up took longer than {seconds:.0f} s:\n{self.said()}")
            time.sleep(0.2)
        return time.monotonic() - begin

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=DOWN_SECONDS,
            check=False,
        )

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def ended(self) -> int:
        assert self.running is not None
        return self.running.wait(timeout=DOWN_SECONDS)


@contextmanager
def made_stack(folder: Path, **settings: object) -> Iterator[Stack]:
    """A stack that is not started yet, and that is stopped at the end.

    Args:
        folder: empty; holds the home.
        settings: more ``MASKLOOP_`` variables, without that prefix.
    """
    if label_studio_binary() is None:
        pytest.skip("Label Studio is not installed; run `make install`")
    try:
        find_mongod()
    except ServiceError as error:
        pytest.skip(str(error))
    home = folder / "home"
    backend, fiftyone = free_port(), free_port()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MASKLOOP_")}
    environment = clean | {
        HOME_VARIABLE: str(home),
        "MASKLOOP_LABEL_STUDIO_BIN": str(label_studio_binary()),
        "MASKLOOP_LABEL_STUDIO__URL": f"http://127.0.0.1:{free_port()}",
        "MASKLOOP_BACKEND__PORT": str(backend),
        "MASKLOOP_BACKEND__URL": f"http://127.0.0.1:{backend}",
        "MASKLOOP_FIFTYONE__PORT": str(fiftyone),
        "MASKLOOP_FIFTYONE__DATABASE_URI": (
            f"mongodb://maskloop:secret@127.0.0.1:{free_port()}/?authSource=admin"
        ),
        "MASKLOOP_DATABASE_URL": Settings(home=home).sql_url,
        "MASKLOOP_REDIS_URL": f"redis://:secret@127.0.0.1:{free_port()}/0",
        **{f"MASKLOOP_{name}": str(value) for name, value in settings.items()},
    }
    stack = Stack(home, environment, folder / "output")
    yield stack
    if stack.running is not None and stack.running.poll() is None:
        stack.running.kill()
        stack.running.wait()
    stop_all(leftovers(home))
