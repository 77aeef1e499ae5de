"""A real Celery worker for tests, with the settings of a loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from tests.loop import Loop

PATIENCE = 180  # seconds; most waits end in one or two, but a busy machine is slow
REPOSITORY = Path(__file__).resolve().parents[2]


class CeleryProcess:
    """A process of Celery in its own process group, with its log."""

    def __init__(self, loop: Loop, name: str, *arguments: str) -> None:
        self.log = loop.runtime.settings.home / f"{name}-{time.monotonic_ns()}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "workers.app", *arguments, "-l", "INFO"],
                cwd=REPOSITORY,
                env={**os.environ, **environment(loop)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill_all(self) -> None:
        """Kill the process and its children with SIGKILL, as a power failure would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=10)

    def stop(self) -> None:
        """Stop it without waiting for its tasks; safe to call twice."""
        if self.process.poll() is None:
            self.kill_all()


class Worker(CeleryProcess):
    """A worker that reads some queues, with one child."""

    def __init__(self, loop: Loop, queues: str) -> None:
        arguments = ["worker", "-Q", queues, "-n", f"{queues}@%h", "--concurrency", "1"]
        super().__init__(loop, queues, *arguments)


class Beat(CeleryProcess):
    """The schedule."""

    def __init__(self, loop: Loop) -> None:
        path = loop.runtime.settings.home / "schedule"
        super().__init__(loop, "beat", "beat", "--schedule", str(path), "--pidfile=")


def environment(loop: Loop) -> dict[str, str]:
    """The loop's settings as environment variables of a process."""
    settings = loop.runtime.settings
    project = settings.label_studio.project
    return {
        **({} if project is None else {"MASKLOOP_LABEL_STUDIO__PROJECT": str(project)}),
        "MASKLOOP_HOME": str(settings.home),
        "MASKLOOP_DATABASE_URL": settings.sql_url,
        "MASKLOOP_REDIS_URL": settings.redis_url,
        "MASKLOOP_LABEL_STUDIO__URL": settings.label_studio.url,
        "MASKLOOP_LABEL_STUDIO__TOKEN": settings.label_studio.token.get_secret_value(),
        "MASKLOOP_IMAGES": settings.images.model_dump_json(),
        "MASKLOOP_SELECTION": settings.selection.model_dump_json(),
        "MASKLOOP_MODEL": settings.model.model_dump_json(),
        "MASKLOOP_FINETUNE": settings.finetune.model_dump_json(),
        "MASKLOOP_WORKERS": settings.workers.model_dump_json(),
    }


def wait_until(loop: Loop, holds: Callable[[Session], bool], worker: Worker) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with loop.runtime.sessions() as session:
            if holds(session):
                return
        if time.monotonic() > deadline or worker.process.poll() is not None:
            pytest.fail(f"It did not come to that. The worker's log:\n{worker.log.read_text()}")
        time.sleep(0.1)
