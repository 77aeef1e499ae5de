"""A small record to mirror: photographs from scikit-image, tasks, masks, clicks, a round."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from pydantic import SecretStr
from skimage import data as photographs
from sqlalchemy.orm import Session, sessionmaker

from pipeline.masks import rle
from pipeline.masks.ops import probability_to_png, to_png
from pipeline.record.tables import (
    Annotation,
    Effort,
    Embedding,
    Image,
    Interaction,
    ModelVersion,
    Region,
    Round,
    RoundItem,
    Task,
    now,
)
from pipeline.runtime import Runtime
from pipeline.settings import FiftyOneSettings, Settings
from pipeline.storage.store import Store

PROJECT = 7
NAMES = ("astronaut", "chelsea", "coffee", "rocket")
CROPS = 3  # of each photograph
VECTOR = 16


@dataclass(frozen=True)
class World:
    runtime: Runtime
    task_ids: list[int]

    @property
    def settings(self) -> Settings:
        return self.runtime.settings

    @property
    def sessions(self) -> sessionmaker[Session]:
        return self.runtime.sessions

    @property
    def store(self) -> Store:
        return self.runtime.store


def make_world(home: Path, uri: str, dataset: str, *, port: int = 5151) -> World:
    """Twelve images: four accepted (with their clicks), three queued in round 0, the rest pool."""
    settings = Settings(
        home=home,
        fiftyone=FiftyOneSettings(
            database_uri=uri, dataset=dataset, port=port, password=SecretStr("for the data team")
        ),
    )
    world = World(Runtime(settings, migrate=True), [])
    images = [
        _register(world, getattr(photographs, name)()[crop * 8 :, crop * 8 :])
        for name in NAMES
        for crop in range(CROPS)
    ]
    with world.sessions.begin() as session:
        session.add(
            ModelVersion(
                name="base", encoder="e" * 16, sha256="0" * 64, key="models/base", status="serving"
            )
        )
        for image in images:
            world.task_ids.append(_task(session, world, image))
        for task_id in world.task_ids[:4]:
            accept(session, task_id)
        row = Round(ls_project_id=PROJECT, number=0, settings={})
        session.add(row)
        session.flush()
        for rank, task_id in enumerate(world.task_ids[6:3:-1]):
            session.get_one(Task, task_id).status = "queued"
            session.add(
                RoundItem(
                    round_id=row.id,
                    task_id=task_id,
                    rank=rank,
                    reason="hard",
                    hardness=0.5,
                    stratum=rank,
                )
            )
    return world


def accept(session: Session, task_id: int) -> Region:
    """One click, its answer, and an accepted mask that is a little larger."""
    task = session.get_one(Task, task_id)
    assert task.image_id is not None
    size = _size(session, task.image_id)
    answer, wanted = disc(size, 0.25), disc(size, 0.3)
    region_id = f"region-{task_id}"
    reply = Interaction(
        task_id=task_id,
        image_id=task.image_id,
        region_id=region_id,
        label="Object",
        prompts=[{"id": "k", "kind": "click", "positive": True, "x": 1.0, "y": 2.0}],
        model_version_id=1,
        probability=probability_to_png(answer[::4, ::4].astype(np.float32)),
        rle=rle.encode(answer),
        score=0.8,
        milliseconds=40.0,
    )
    annotation = Annotation(
        task_id=task_id,
        ls_annotation_id=1000 + task_id,
        annotator="ann@example.org",
        lead_time=9.0,
        ls_updated_at=now(),
    )
    session.add_all([reply, annotation])
    session.flush()
    region = Region(
        annotation_id=annotation.id,
        image_id=task.image_id,
        ls_region_id=region_id,
        label="Object",
        mask=to_png(wanted),
        area=int(wanted.sum()),
        interaction_id=reply.id,
    )
    session.add(region)
    session.flush()
    session.add(
        Effort(
            region_id=region.id,
            clicks=1,
            negative_clicks=0,
            seconds=3.5,
            first_iou=0.69,
            last_iou=0.69,
        )
    )
    task.status = "accepted"
    return region


def disc(size: tuple[int, int], radius: float) -> npt.NDArray[np.bool_]:
    """Bool [H, W]: a disc in the middle, its radius a share of the shorter side."""
    rows, cols = np.ogrid[: size[0], : size[1]]
    distance = np.hypot(rows - size[0] / 2, cols - size[1] / 2)
    return np.asarray(distance < radius * min(size))


def _register(world: World, pixels: npt.NDArray[np.uint8]) -> Image:
    file = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG")
    return world.runtime.catalog.register(file.getvalue())


def _task(session: Session, world: World, image: Image) -> int:
    number = len(world.task_ids) + 1
    vector = np.random.default_rng(number).normal(size=VECTOR).astype(np.float32)
    session.add(
        Embedding(
            image_id=image.id,
            encoder="e" * 16,
            preprocess="p",
            key=f"e/{number}",
            n_bytes=1,
            vector=(vector / np.linalg.norm(vector)).tobytes(),
        )
    )
    task = Task(
        ls_project_id=PROJECT,
        ls_task_id=100 + number,
        image_id=image.id,
        url=f"/data/upload/{number}.png",
        hardness=number / 20,
    )
    session.add(task)
    session.flush()
    return task.id


def _size(session: Session, image_id: int) -> tuple[int, int]:
    image = session.get_one(Image, image_id)
    return image.height, image.width
