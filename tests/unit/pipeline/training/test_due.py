"""A round is due when there is none, or when the last one is labelled, and never half-way."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.errors import MaskloopError
from pipeline.images.catalog import task_row
from pipeline.record import versions
from pipeline.record.jobs import job
from pipeline.record.tables import Round, Task, now
from pipeline.selection.due import KIND, round_due
from tests.loop import Loop, disk_picture, make_loop

PROJECT = 1


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return make_loop(tmp_path)


def add_task(loop: Loop, number: int) -> int:
    """A task with its image, not encoded; the row's id."""
    runtime = loop.runtime
    image = runtime.catalog.register(disk_picture(number)[0])
    with runtime.sessions.begin() as session:
        task = task_row(session, PROJECT, number, f"/data/upload/{number}.png")
        task.image_id = image.id
        session.flush()
        return task.id


def encode(loop: Loop) -> None:
    _, model = loop.runtime.serving.current()
    for image in loop.images():
        loop.runtime.embeddings.ensure(image.id, model)


def set_status(loop: Loop, task: int, status: str) -> None:
    with loop.runtime.sessions.begin() as session:
        session.get_one(Task, task).status = status  # type: ignore[assignment]


def is_due(loop: Loop, project: int = PROJECT) -> bool:
    with loop.runtime.sessions.begin() as session:
        return round_due(session, project)


def test_the_first_round_waits_until_every_image_is_encoded(loop: Loop) -> None:
    assert not is_due(loop)
    add_task(loop, 1)
    encode(loop)
    assert is_due(loop)
    add_task(loop, 2)
    assert not is_due(loop)
    encode(loop)
    assert is_due(loop)
    assert not is_due(loop, PROJECT + 1)


def test_the_next_round_waits_until_the_last_is_labelled(loop: Loop) -> None:
    first, second, _ = (add_task(loop, number) for number in (1, 2, 3))
    encode(loop)
    set_status(loop, first, "queued")
    set_status(loop, second, "accepted")
    assert not is_due(loop)
    set_status(loop, first, "skipped")
    assert is_due(loop)


def test_nothing_is_due_when_the_pool_is_empty(loop: Loop) -> None:
    task = add_task(loop, 1)
    encode(loop)
    set_status(loop, task, "accepted")
    assert not is_due(loop)


def test_a_running_choice_and_one_that_just_failed_are_waited_for(loop: Loop) -> None:
    add_task(loop, 1)
    encode(loop)
    with job(loop.runtime.sessions, KIND, exclusive=True):
        assert not is_due(loop)
    assert is_due(loop)
    with pytest.raises(MaskloopError), job(loop.runtime.sessions, KIND, exclusive=True):
        raise MaskloopError("Label Studio is away; start it.")
    assert not is_due(loop)


def made_round(loop: Loop, *, written: bool) -> None:
    with loop.runtime.sessions.begin() as session:
        row = Round(ls_project_id=PROJECT, number=0, settings={})
        row.written_at = now() if written else None
        session.add(row)


def test_a_round_that_label_studio_never_got_is_due_again(loop: Loop) -> None:
    first, _ = (add_task(loop, number) for number in (1, 2))
    encode(loop)
    set_status(loop, first, "queued")
    made_round(loop, written=False)
    assert is_due(loop)
    with loop.runtime.sessions.begin() as session:
        session.query(Round).one().written_at = now()
    assert not is_due(loop)


def test_a_promotion_makes_a_round_due_even_if_its_message_was_lost(loop: Loop) -> None:
    first, _ = (add_task(loop, number) for number in (1, 2))
    encode(loop)
    set_status(loop, first, "queued")
    made_round(loop, written=True)
    assert not is_due(loop)
    with loop.runtime.sessions.begin() as session:
        serving = versions.serving(session)
        assert serving is not None
        serving.promoted_at = now()
    assert is_due(loop)
    with loop.runtime.sessions.begin() as session:
        session.add(Round(ls_project_id=PROJECT, number=1, settings={}, written_at=now()))
    assert not is_due(loop)
