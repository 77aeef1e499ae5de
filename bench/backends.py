"""A backend in a separate process for ``bench.clicks`` and ``bench.drafts``, and its tasks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import track

from bench.annotators import PROJECT, Picture
from pipeline.images.catalog import task_row
from pipeline.precompute.encode import encode_task
from pipeline.record.tables import Task
from pipeline.runtime import Runtime
from pipeline.settings import ImageSettings, ModelSettings, Settings
from pipeline.stack.services import THREADS

START_SECONDS = 120
COUNTERS = {
    "seconds": "maskloop_predict_seconds_sum",
    "clicks": "maskloop_predict_seconds_count",
    "windows": "maskloop_window_seconds_count",
    "window_seconds": "maskloop_window_seconds_sum",
}


@dataclass(frozen=True)
class Backend:
    address: str
    process: psutil.Process

    @property
    def memory_mb(self) -> float:
        return float(self.process.memory_info().rss) / 1e6

    def counters(self) -> dict[str, float]:
        """Seconds and number of answered clicks, and of encoded windows for second looks."""
        text = httpx.get(f"{self.address}/metrics", trust_env=False).text
        found = dict.fromkeys(COUNTERS, 0.0)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                for name, known in COUNTERS.items():
                    if sample.name == known and sample.labels.get("asked", "click") == "click":
                        found[name] = sample.value
        return found


def settings_of(home: Path, threads: int) -> Settings:
    return Settings(
        home=home,
        database_url=f"sqlite:///{home / 'maskloop.sqlite3'}",
        store_url=str(home / "store"),
        images=ImageSettings(files_root=home / "files"),
        model=ModelSettings(device="cpu", threads=threads),
    )


@contextmanager
def running_backend(settings: Settings) -> Iterator[Backend]:
    """A backend in a separate process. Raises RuntimeError when it does not start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: v for name, v in os.environ.items() if not name.startswith("MASKLOOP_")}
    environment = kept | {
        "OMP_NUM_THREADS": str(settings.model.threads),
        "MASKLOOP_HOME": str(settings.home),
        "MASKLOOP_IMAGES__FILES_ROOT": str(settings.images.files_root),
        "MASKLOOP_MODEL__THREADS": str(settings.model.threads),
        "MASKLOOP_MODEL__DEVICE": "cpu",
        "MASKLOOP_LOG_LEVEL": "WARNING",
        **THREADS,
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "backend.http.app:create_app"]
    command += ["--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("The backend did not start; see its output above.")
            time.sleep(0.1)
        yield Backend(address, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=1, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def register(runtime: Runtime, shown: Iterable[tuple[int, Picture]]) -> None:
    """Write a row for each task, and encode each picture at its first task."""
    first: dict[str, int] = {}
    rest: list[tuple[int, Picture]] = []
    for task, picture in shown:
        if first.setdefault(picture.name, task) != task:
            rest.append((task, picture))
    images: dict[str, int] = {}
    for name, task in track(first.items(), "Encoding", console=Console(stderr=True)):
        with runtime.sessions.begin() as session:
            row = task_row(session, PROJECT, task, f"/data/local-files/?d={name}")
            session.flush()
            number = row.id
        images[name] = encode_task(runtime, number)
    with runtime.sessions.begin() as session:
        session.add_all(
            Task(ls_project_id=PROJECT, ls_task_id=task, url=p.url, image_id=images[p.name])
            for task, p in rest
        )
