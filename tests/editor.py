"""Sends the requests of Label Studio's editor to a backend, and makes photographs for them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from backend.http.app import create_app
from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.template import default_label_config
from pipeline.record.tables import Interaction, Task
from pipeline.settings import BackendSettings, ImageSettings, ModelSettings, Settings

HEIGHT, WIDTH = 192, 256
# This config has no place for notices, so the backend returns errors as HTTP errors.
WORDLESS_CONFIG = default_label_config().replace(' model_notice="true"', "")
EXIF_ORIENTATION = 0x0112


def settings_for(home: Path, **backend: Any) -> Settings:
    """Settings of a backend with all its files in ``home`` and its images in ``home/files``."""
    (home / "files").mkdir(parents=True, exist_ok=True)
    return Settings(
        home=home,
        redis_url="redis://127.0.0.1:1/0",  # no server listens there
        images=ImageSettings(files_root=home / "files"),
        backend=BackendSettings(**backend),
        model=ModelSettings(device="cpu"),
    )


@contextmanager
def backend(settings: Settings) -> Iterator[httpx.Client]:
    """A client for a backend that runs on a free port of this machine."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(create_app(settings), log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            assert server.started, "the backend did not start; see the log above"
            address = f"http://127.0.0.1:{listening.getsockname()[1]}"
            with httpx.Client(base_url=address, timeout=100, trust_env=False) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def disk(row: float, column: float, radius: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 < radius**2)


ON_BALL, ON_BALL_TOO, ON_BLUE = (30, 50), (24, 42), (80, 40)  # x and y in percent
BALL = disk(0.5 * HEIGHT, 0.3 * WIDTH, 0.3 * HEIGHT, (HEIGHT, WIDTH))
BLUE = disk(0.4 * HEIGHT, 0.8 * WIDTH, 0.18 * HEIGHT, (HEIGHT, WIDTH))
AROUND_BALL, AROUND_BLUE = (7.5, 20, 45, 60), (66.5, 22, 27, 36)  # x, y, width, height


def photograph(height: int = HEIGHT, width: int = WIDTH, *, balls: int = 2) -> NDArray[np.uint8]:
    """An orange ball on the left and, for two balls, a smaller blue one on the right, on green."""
    rng = np.random.default_rng(0)
    picture = np.full((height, width, 3), (60, 90, 60), np.float64)
    size = min(height, width)
    picture[disk(0.5 * height, 0.3 * width, 0.3 * size, (height, width))] = (235, 130, 20)
    if balls > 1:
        picture[disk(0.4 * height, 0.8 * width, 0.18 * size, (height, width))] = (40, 70, 230)
    return np.clip(picture + rng.normal(0, 4, picture.shape), 0, 255).astype(np.uint8)


def save(picture: NDArray[np.uint8], path: Path, *, orientation: int = 1) -> None:
    """Write a picture with an EXIF orientation, so that the upright image equals ``picture``."""
    image = Image.fromarray(picture)
    if orientation == 6:  # a viewer turns it clockwise
        image = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(path, exif=exif, quality=95)


def click(name: str, x: float, y: float, *, positive: bool = True, label: str = "Object") -> Any:
    """A smart keypoint; x and y in percent."""
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.6, "labels": [label], "keypointlabels": [label]},
        "is_positive": positive,
        "id": name,
        "from_name": "click",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }


def box(name: str, x: float, y: float, width: float, height: float, **value: Any) -> Any:
    """A smart rectangle, in percent."""
    return {
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {
            "x": x,
            "y": y,
            "width": width,
            "height": height,
            "rotation": 0,
            "rectanglelabels": ["Object"],
            **value,
        },
        "id": name,
        "from_name": "box",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    }


@dataclass
class Editor:
    """One annotator on one task."""

    client: httpx.Client
    url: str = "/data/local-files/?d=balls.png"
    task: int = 1
    project: int = 7
    config: str = WORDLESS_CONFIG
    draft: list[Any] = field(default_factory=list)

    def request(self, context: Any) -> dict[str, Any]:
        return {
            "tasks": [
                {
                    "id": self.task,
                    "data": {"image": self.url},
                    "project": self.project,
                    "annotations": [],
                    "drafts": [{"id": 1, "result": self.draft}] if self.draft else [],
                }
            ],
            "project": f"{self.project}.1795328252",
            "label_config": self.config,
            "params": {"login": None, "password": None, "context": context},
        }

    def send(self, *marks: Any) -> Any:
        return self.client.post("/predict", json=self.request({"result": list(marks)}))

    def ask(self, *marks: Any) -> Any:
        """Send the marks; returns the region of the answer, or None when there is none."""
        response = self.send(*marks)
        assert response.status_code == 200, response.text
        (answer,) = response.json()["results"]
        assert len(answer["result"]) <= 1
        return answer["result"][0] if answer["result"] else None

    def told(self, *marks: Any) -> tuple[Any, str]:
        """Send the marks; returns the region, if any, and the notice of a page that shows it."""
        response = replace(self, config=default_label_config()).send(*marks)
        assert response.status_code == 200, response.text
        (answer,) = response.json()["results"]
        *regions, notice = answer["result"]
        assert notice["type"] == "textarea"
        assert (notice["from_name"], notice["to_name"]) == ("notice", "about")
        return (regions[0] if regions else None), " ".join(notice["value"]["text"])

    def mask(self, *marks: Any) -> NDArray[np.bool_]:
        region = self.ask(*marks)
        assert region is not None
        found = mask_of(region)
        assert found is not None
        return found


def rows(settings: Settings, kind: Any) -> list[Any]:
    """All rows of a table of the backend's database."""
    engine = create_engine(settings.sql_url)
    with Session(engine) as session:
        found = list(session.scalars(select(kind)))
    engine.dispose()
    return found


def log_of(settings: Settings, editor: Editor) -> list[Interaction]:
    """The click log of the annotator's task in the backend's database."""
    tasks = {task.id for task in rows(settings, Task) if task.ls_task_id == editor.task}
    return [row for row in rows(settings, Interaction) if row.task_id in tasks]
