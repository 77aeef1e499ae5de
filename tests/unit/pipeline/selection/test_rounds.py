"""Rounds on a real database, with real embeddings and answers of a tiny network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from sqlalchemy import select, update

from model.network.segnext import SegNext
from pipeline.errors import NotEnoughDataError
from pipeline.images.catalog import image_key, task_row
from pipeline.record.tables import Annotation, Effort, Image, Region, Round, RoundItem, Task, now
from pipeline.selection.rounds import make_round
from tests.loop import Loop, disk_picture, make_loop, tiny_model

PROJECT = 3


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    # A network of random weights sees little difference between pictures.
    selection = {"size": 4, "random_share": 0.25, "duplicate_similarity": 1.0}
    made = make_loop(tmp_path, selection=selection)
    yield made
    made.runtime.close()


@pytest.fixture(scope="module")
def model() -> SegNext:
    return tiny_model()


def add_tasks(loop: Loop, model: SegNext, count: int) -> list[int]:
    """Encoded pool tasks, each with a picture of its own; returns their row ids."""
    ids = []
    for _ in range(count):
        loop.count += 1
        image = loop.runtime.catalog.register(picture(loop.count))
        with loop.runtime.sessions.begin() as session:
            task = task_row(session, PROJECT, loop.count, f"/data/upload/{loop.count}.png")
            session.flush()
            task.image_id = image.id
            ids.append(task.id)
        loop.runtime.embeddings.get(image.id, model)
    return ids


def picture(seed: int) -> bytes:
    """A disk on noise under a colour of its own, so that no two are near-duplicates."""
    data, _ = disk_picture(seed)
    pixels = np.asarray(Pillow.open(io.BytesIO(data))).copy()
    rng = np.random.default_rng(seed)
    pixels[:: rng.integers(2, 9), :, rng.integers(3)] = 255
    pixels[:, :: rng.integers(2, 9)] = rng.integers(0, 255, 3)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def run(loop: Loop, model: SegNext, *, written: bool = True, size: int | None = None) -> Round:
    runtime = loop.runtime
    made = make_round(runtime, PROJECT, model, size=size)
    if written:
        with runtime.sessions.begin() as session:
            session.get_one(Round, made.id).written_at = now()
    return made


def items(loop: Loop, made: Round) -> list[RoundItem]:
    with loop.runtime.sessions() as session:
        statement = select(RoundItem).where(RoundItem.round_id == made.id)
        return list(session.scalars(statement.order_by(RoundItem.rank)))


def statuses(loop: Loop) -> dict[int, str]:
    with loop.runtime.sessions() as session:
        return {task.id: task.status for task in session.scalars(select(Task))}


def test_round_0_needs_no_label(loop: Loop, model: SegNext) -> None:
    pool = add_tasks(loop, model, 8)
    made = run(loop, model)
    assert (made.number, made.ls_project_id) == (0, PROJECT)
    chosen = items(loop, made)
    assert [item.rank for item in chosen] == [0, 1, 2, 3]
    assert {item.task_id for item in chosen} <= set(pool)
    assert all(item.hardness is not None and 0 <= item.hardness <= 1 for item in chosen)
    assert sum(item.reason == "random" for item in chosen) == 1
    queued = {task_id for task_id, status in statuses(loop).items() if status == "queued"}
    assert queued == {item.task_id for item in chosen}


def test_every_pool_task_remembers_its_hardness(loop: Loop, model: SegNext) -> None:
    add_tasks(loop, model, 6)
    run(loop, model)
    with loop.runtime.sessions() as session:
        found = [task.hardness for task in session.scalars(select(Task))]
    assert all(value is not None and 0 <= value <= 1 for value in found)
    assert len(set(found)) > 1


def label(loop: Loop, made: Round) -> set[int]:
    """Say that every task of a round is labelled; their ids."""
    taken = {item.task_id for item in items(loop, made)}
    with loop.runtime.sessions.begin() as session:
        session.execute(update(Task).where(Task.id.in_(taken)).values(status="accepted"))
    return taken


def test_the_next_round_takes_other_tasks_and_trusts_hardness_more(
    loop: Loop, model: SegNext
) -> None:
    add_tasks(loop, model, 10)
    first = run(loop, model)
    taken = label(loop, first)
    second = run(loop, model)
    assert second.number == 1
    assert len(taken | {item.task_id for item in items(loop, second)}) == 8
    assert second.settings["beta"] > first.settings["beta"]


def test_what_a_round_left_undone_is_chosen_from_again(loop: Loop, model: SegNext) -> None:
    add_tasks(loop, model, 4)
    first = {item.task_id for item in items(loop, run(loop, model))}
    add_tasks(loop, model, 3)
    second = {item.task_id for item in items(loop, run(loop, model, size=5))}
    assert first & second
    queued = {task_id for task_id, status in statuses(loop).items() if status == "queued"}
    assert queued == second  # none is left over from the first, where nobody would find it


def test_a_round_label_studio_never_got_is_made_again(loop: Loop, model: SegNext) -> None:
    add_tasks(loop, model, 5)
    lost = run(loop, model, written=False)
    again = run(loop, model)
    assert again.number == lost.number == 0
    assert sorted(statuses(loop).values()) == ["pool"] + ["queued"] * 4
    with loop.runtime.sessions() as session:
        assert len(list(session.scalars(select(Round)))) == 1


def test_the_same_record_gives_the_same_round(loop: Loop, model: SegNext) -> None:
    add_tasks(loop, model, 8)
    first = [(item.task_id, item.reason) for item in items(loop, run(loop, model, written=False))]
    assert [(i.task_id, i.reason) for i in items(loop, run(loop, model))] == first


def test_a_small_pool_is_taken_whole_and_then_is_empty(loop: Loop, model: SegNext) -> None:
    add_tasks(loop, model, 2)
    made = run(loop, model)
    assert len(items(loop, made)) == 2
    label(loop, made)
    with pytest.raises(NotEnoughDataError, match="project 3 .*maskloop encode"):
        run(loop, model)


def test_an_unknown_project_is_a_sentence(loop: Loop, model: SegNext) -> None:
    with pytest.raises(NotEnoughDataError, match="add tasks in Label Studio"):
        run(loop, model)


def test_effort_of_labelled_images_is_heard(loop: Loop, model: SegNext) -> None:
    labelled = add_tasks(loop, model, 3)
    add_tasks(loop, model, 6)
    with loop.runtime.sessions.begin() as session:
        for number, task_id in enumerate(labelled):
            task = session.get_one(Task, task_id)
            task.status = "accepted"
            annotation = Annotation(
                task_id=task.id, ls_annotation_id=900 + number, ls_updated_at=now()
            )
            session.add(annotation)
            session.flush()
            region = Region(
                annotation_id=annotation.id,
                image_id=task.image_id,
                ls_region_id=f"r{number}",
                label="object",
                mask=b"",
                area=1,
            )
            session.add(region)
            session.flush()
            session.add(
                Effort(
                    region_id=region.id,
                    clicks=1 + 4 * number,
                    negative_clicks=0,
                    seconds=2.0 + number,
                    first_iou=0.9 - 0.3 * number,
                    last_iou=None,
                )
            )
    assert not {item.task_id for item in items(loop, run(loop, model))} & set(labelled)


def test_an_image_that_is_lost_does_not_cost_the_round(
    loop: Loop, model: SegNext, caplog: pytest.LogCaptureFixture
) -> None:
    pool = add_tasks(loop, model, 5)
    runtime = loop.runtime
    with runtime.sessions() as session:
        image = session.get_one(Image, session.get_one(Task, pool[0]).image_id)
        row = session.scalars(select(Image)).all()
    assert len(row) == 5
    runtime.store.delete(image_key(image))
    for path in (runtime.settings.home / "store" / "embeddings").rglob("*.safetensors"):
        path.unlink()
    del runtime.embeddings  # a new process: nothing in memory
    made = run(loop, model, size=5)
    assert len(items(loop, made)) == 5
    assert "is not probed" in caplog.text


def test_progress_counts_probed_images(loop: Loop, model: SegNext) -> None:
    add_tasks(loop, model, 3)
    steps: list[tuple[int, int | None]] = []
    runtime = loop.runtime
    make_round(
        runtime,
        PROJECT,
        model,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
