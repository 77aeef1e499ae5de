"""The mirror with a real mongod: the data team sees the data that is in SQL."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from sqlalchemy import select

from pipeline.errors import ServiceError
from pipeline.images.catalog import image_key
from pipeline.mirror.connection import connect_fiftyone
from pipeline.mirror.dataset import MirrorReport, mirror
from pipeline.record.tables import Annotation, Image, Region, Task
from pipeline.runtime import Runtime
from pipeline.settings import FiftyOneSettings
from tests.mirror_world import PROJECT, World, accept, disc, make_world

pytestmark = pytest.mark.integration


@pytest.fixture
def world(tmp_path: Path, mongod_uri: str) -> Iterator[World]:
    made = make_world(tmp_path / "home", mongod_uri, f"mirror-{uuid.uuid4().hex[:8]}")
    with made.runtime:
        yield made


def run(world: World) -> MirrorReport:
    return mirror(world.runtime)


def dataset_of(world: World) -> Any:
    dataset = connect_fiftyone(world.settings).load_dataset(world.settings.fiftyone.dataset)
    dataset.reload()
    return dataset


def test_every_image_is_there_with_what_is_known_of_it(world: World) -> None:
    steps: list[tuple[int, int | None]] = []
    report = mirror(world.runtime, lambda done, total: steps.append((done, total)))
    assert (report.samples, report.added, report.left_out) == (12, 12, 0)
    assert steps[0] == (0, 12)
    assert steps[-1] == (12, 12)

    dataset = dataset_of(world)
    assert dataset.persistent
    sample = dataset.match({"ls_task_id": 101}).first()
    assert Path(sample.filepath).is_file()
    assert (sample.ls_project_id, sample.status, sample.round) == (PROJECT, "accepted", None)
    assert (sample.n_clicks, sample.seconds, sample.first_iou) == (1, 3.5, 0.69)
    assert sample.annotators == ["ann@example.org"]
    assert sample.score == 0.8
    assert sample.embedding.shape == (16,)
    assert sample.ls_url.endswith("/projects/7/data?task=101")
    answer = sample.prediction.detections[0]
    assert (answer.model_version, answer.clicks, answer.became_accepted) == ("base", 1, True)


def test_masks_on_disk_are_the_accepted_ones(world: World) -> None:
    run(world)
    sample = dataset_of(world).match({"ls_task_id": 101}).first()
    height, width = sample.metadata.height, sample.metadata.width
    shown = np.zeros((height, width), dtype=bool)
    found = sample.accepted.detections[0]
    left, top = round(found.bounding_box[0] * width), round(found.bounding_box[1] * height)
    part = np.asarray(Pillow.open(found.mask_path)) > 0
    shown[top : top + part.shape[0], left : left + part.shape[1]] = part
    assert (shown == disc((height, width), 0.3)).all()


def test_twice_is_once(world: World) -> None:
    run(world)
    dataset = dataset_of(world)
    before = (dataset.values("id"), dataset.values("accepted.detections.id"))
    again = run(world)
    dataset = dataset_of(world)
    assert (again.added, again.updated, again.removed) == (0, 0, 0)
    assert (dataset.values("id"), dataset.values("accepted.detections.id")) == before
    assert len(dataset.list_saved_views()) == len(set(dataset.list_saved_views()))


def test_views_and_likeness(world: World) -> None:
    run(world)
    dataset = dataset_of(world)
    assert dataset.load_saved_view("next_round").values("ls_task_id") == [107, 106, 105]
    hardest = dataset.load_saved_view("hardest_unlabelled").values("hardness")
    assert hardest == sorted(hardest, reverse=True)
    assert len(hardest) == 5
    assert len(dataset.load_saved_view("accepted")) == 4
    assert dataset.list_brain_runs() == ["map", "similarity"]
    nearest = dataset.sort_by_similarity(dataset.first().id, brain_key="similarity", k=3)
    assert nearest.first().id == dataset.first().id


def test_a_mirror_leaves_views_alone_that_are_as_they_should_be(world: World) -> None:
    def documents() -> list[tuple[str, str]]:
        return [(str(view.id), view.name) for view in dataset_of(world)._doc.saved_views]

    run(world)
    saved = documents()
    with world.sessions.begin() as session:
        accept(session, world.task_ids[4])
    run(world)
    assert documents() == saved  # a page that opens a link at this moment finds its own view
    dataset = dataset_of(world)
    dataset.save_view("accepted", dataset.limit(1), overwrite=True)
    run(world)
    assert len(dataset_of(world).load_saved_view("accepted")) > 1
    assert sorted(name for _id, name in documents()) == sorted(name for _id, name in saved)


def test_a_new_mask_and_a_new_round_are_followed(world: World) -> None:
    run(world)
    ids = dataset_of(world).values("id")
    with world.sessions.begin() as session:
        accept(session, world.task_ids[4])
    report = run(world)
    dataset = dataset_of(world)
    assert (report.added, report.updated, report.removed) == (0, 1, 0)
    assert dataset.values("id") == ids
    assert len(dataset.load_saved_view("accepted")) == 5
    assert dataset.load_saved_view("next_round").values("ls_task_id") == [107, 106]


def test_what_is_gone_is_removed_and_its_masks_with_it(world: World) -> None:
    run(world)
    masks = world.settings.home / "fiftyone" / "masks"
    before = len(list(masks.glob("*/*.png")))
    with world.sessions.begin() as session:
        session.get_one(Task, world.task_ids[0]).status = "deleted"
        task = session.get_one(Task, world.task_ids[1])
        for annotation in session.scalars(select(Annotation).where(Annotation.task_id == task.id)):
            annotation.deleted = True
        task.status = "pool"
    report = run(world)
    dataset = dataset_of(world)
    assert (report.removed, report.updated) == (1, 1)
    assert 101 not in dataset.values("ls_task_id")
    assert len(dataset.load_saved_view("accepted")) == 2
    assert len(list(masks.glob("*/*.png"))) < before


def test_a_dropped_dataset_comes_back(world: World) -> None:
    run(world)
    before = dataset_of(world).values("accepted.detections.label")
    connect_fiftyone(world.settings).delete_dataset(world.settings.fiftyone.dataset)
    report = run(world)
    assert report.added == 12
    dataset = dataset_of(world)
    assert dataset.values("accepted.detections.label") == before
    assert "next_round" in dataset.list_saved_views()


def test_what_the_data_team_added_stays(world: World) -> None:
    run(world)
    dataset = dataset_of(world)
    dataset.match({"ls_task_id": 105}).tag_samples("look at this")
    dataset.save_view("mine", dataset.limit(2))
    dataset.app_config.color_scheme.opacity = 0.2
    dataset.save()
    with world.sessions.begin() as session:
        accept(session, world.task_ids[4])
    run(world)
    dataset = dataset_of(world)
    assert dataset.match({"ls_task_id": 105}).first().tags == ["look at this"]
    assert "mine" in dataset.list_saved_views()
    assert dataset.app_config.color_scheme.opacity == 0.2


def test_what_cannot_be_read_is_left_out_and_counted(world: World) -> None:
    with world.sessions.begin() as session:
        region = session.scalars(select(Region).order_by(Region.id)).first()
        assert region is not None
        region.mask = b"no mask at all"
        image_id = session.get_one(Task, world.task_ids[11]).image_id
        lost = image_key(session.get_one(Image, image_id))
    world.store.delete(lost)
    report = run(world)
    assert (report.samples, report.left_out) == (11, 2)


def test_an_empty_record_makes_an_empty_dataset(tmp_path: Path, world: World) -> None:
    with world.sessions.begin() as session:
        for task in session.scalars(select(Task)):
            task.status = "deleted"
    moved = world.settings.model_copy(update={"store_url": str(tmp_path / "store")})
    with Runtime(moved) as runtime:
        report = mirror(runtime)
    assert (report.samples, report.added) == (0, 0)
    dataset = dataset_of(world)
    assert "accepted" in dataset.get_field_schema()
    assert len(dataset.load_saved_view("next_round")) == 0


def test_a_dead_mongod_is_a_sentence_in_seconds(world: World) -> None:
    dead = FiftyOneSettings(database_uri="mongodb://127.0.0.1:1", dataset="x")
    start = time.perf_counter()
    with pytest.raises(ServiceError, match="does not answer at mongodb://127.0.0.1:1 .*make up"):
        mirror(Runtime(world.settings.model_copy(update={"fiftyone": dead})))
    assert time.perf_counter() - start < 3
