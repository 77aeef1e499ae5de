"""A project in a real Label Studio, with its backend and its pictures."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pydantic import SecretStr
from sqlalchemy.orm import Session, sessionmaker

from model.inference.proposals import ProposalConfig
from model.masks import Mask
from pipeline.labelstudio.connect import connect
from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.template import default_label_config
from pipeline.precompute.propose import propose_project
from pipeline.runtime import Runtime
from pipeline.settings import LabelStudioSettings, Settings
from pipeline.sync.reconcile import reconcile
from tests.annotator import Annotator
from tests.editor import backend, settings_for
from tests.services.label_studio import LabelStudioServer

START_SECONDS = 120
PASSWORD = "backend-password"

HEIGHT, WIDTH = 240, 320


def picture(seed: int) -> bytes:
    """A bright disc at (160, 120) on a dark, lightly noisy ground; PNG bytes."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.random.default_rng(seed).integers(20, 50, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    pixels[(rows - 120) ** 2 + (columns - 160) ** 2 < 50**2] = (240, 200, 60)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def two_objects() -> bytes:
    """A bright disc at (80, 120), and a box of another colour around (240, 120); PNG bytes."""
    with Image.open(io.BytesIO(picture(0))) as image:
        pixels = np.roll(np.asarray(image), -80, axis=1)
    pixels[80:160, 200:280] = (60, 120, 240)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def masks(annotation: dict[str, Any]) -> list[Mask]:
    found = [mask_of(region) for region in annotation["result"]]
    return [mask for mask in found if mask is not None]


def ids(annotation: dict[str, Any]) -> list[str]:
    """The ids of the regions that are masks.

    While the label stays selected, Label Studio repeats an accepted region under the tag of the
    click.
    """
    return [region["id"] for region in annotation["result"] if mask_of(region) is not None]


@dataclass(frozen=True)
class Loop:
    client: Annotator
    settings: Settings
    sessions: sessionmaker[Session]
    project: int

    def task(self, seed: int) -> int:
        return self.client.upload_image(self.project, f"{seed}.png", picture(seed))

    def propose(self, task: int) -> list[dict[str, Any]]:
        with Runtime(self.settings, migrate=True) as runtime:
            config = ProposalConfig(grid=4)
            report = propose_project(runtime, self.project, only=[task], config=config)
        (prediction,) = self.client.predictions(task)
        regions: list[dict[str, Any]] = prediction["result"]
        assert len(regions) == report.regions
        assert (report.proposed, report.problems, report.advice) == (bool(regions), {}, ())
        return regions

    def reconcile(self) -> None:
        with Runtime(self.settings, migrate=True) as runtime:
            reconcile(runtime, self.project)

    def with_config(self, title: str, xml: str, settings: Settings | None = None) -> Loop:
        """Another project of the same Label Studio and backend."""
        project = self.client.create_project(title, xml)
        connect(self.client, settings or self.settings, project)
        return replace(self, project=project, settings=settings or self.settings)


@contextmanager
def opened(
    server: LabelStudioServer, home: Path, backend_url: str = "", *, base: Path | None = None
) -> Iterator[Loop]:
    """A project with a backend: one in this process, or the one at an address.

    Args:
        base: checkpoint of the one in this process; none: the model that ships.
    """
    account = LabelStudioSettings(url=server.url, token=SecretStr(server.token))
    settings = settings_for(home, password=SecretStr(PASSWORD))
    model = settings.model.model_copy(update={"base": base})
    settings = settings.model_copy(update={"label_studio": account, "model": model})
    with ExitStack() as stack:
        client = stack.enter_context(Annotator(account))
        if not backend_url:
            running = stack.enter_context(backend(settings))
            backend_url = str(running.base_url).rstrip("/")
        address = settings.backend.model_copy(update={"url": backend_url})
        settings = settings.model_copy(update={"backend": address})
        project = client.create_project("labelling page", default_label_config())
        connect(client, settings, project)
        runtime = stack.enter_context(Runtime(settings, migrate=True))
        yield Loop(client, settings, runtime.sessions, project)


@pytest.fixture(scope="module")
def loop(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Loop]:
    with opened(label_studio, tmp_path_factory.mktemp("home")) as loop:
        yield loop


@dataclass
class BackendProcess:
    """A backend that can be killed and started again at the same address."""

    home: Path
    port: int
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "uvicorn", "--factory", "backend.http.app:create_app"]
        command += ["--port", str(self.port), "--log-level", "warning"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MASKLOOP_")}
        self.process = subprocess.Popen(command, env=environment | self.environment)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                assert self.process.poll() is None, "the backend ended; see its output above"
            time.sleep(0.1)
        raise AssertionError("the backend does not answer")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def backend_process(server: LabelStudioServer, home: Path) -> Iterator[BackendProcess]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "MASKLOOP_HOME": str(home),
        "MASKLOOP_LABEL_STUDIO__URL": server.url,
        "MASKLOOP_LABEL_STUDIO__TOKEN": server.token,
        "MASKLOOP_BACKEND__PASSWORD": PASSWORD,
        "MASKLOOP_REDIS_URL": "redis://127.0.0.1:1/0",
        "MASKLOOP_MODEL__DEVICE": "cpu",
        "MASKLOOP_IMAGES__FILES_ROOT": str(home / "files"),
    }
    running = BackendProcess(home, port, environment)
    try:
        running.start()
        yield running
    finally:
        running.kill()
