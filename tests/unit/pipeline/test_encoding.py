from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalog import task_row
from pipeline.encoding import encode_task, waiting_tasks
from pipeline.errors import ImageSourceError, UnknownRecordError
from pipeline.tables import Embedding, Task
from tests.loop import Loop, disk_picture, make_loop


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    files = tmp_path / "files"
    files.mkdir()
    (files / "good.png").write_bytes(disk_picture(1)[0])
    return make_loop(tmp_path, images={"files_root": files})


def add(loop: Loop, number: int, name: str) -> int:
    with loop.runtime.sessions.begin() as session:
        row = task_row(session, 1, number, f"/data/local-files/?d={name}")
        session.flush()
        return row.id


def waiting(loop: Loop, project: int | None = None) -> list[int]:
    with loop.runtime.sessions() as session:
        return waiting_tasks(session, project)


def test_a_task_waits_until_it_is_encoded(loop: Loop) -> None:
    first, second = add(loop, 1, "good.png"), add(loop, 2, "good.png")
    assert waiting(loop) == waiting(loop, 1) == [first, second]
    assert waiting(loop, 2) == []
    encode_task(loop.runtime, first)
    assert waiting(loop) == [second]  # the same image, but nobody has looked at this task yet
    assert encode_task(loop.runtime, second) == encode_task(loop.runtime, first)
    assert waiting(loop) == []
    with loop.runtime.sessions() as session:
        assert session.query(Embedding).count() == 1


def test_a_task_whose_image_is_gone_waits_until_it_is_asked_for_again(loop: Loop) -> None:
    row = add(loop, 1, "gone.png")
    with pytest.raises(ImageSourceError):
        encode_task(loop.runtime, row)
    assert waiting(loop) == []
    with loop.runtime.sessions() as session:
        assert waiting_tasks(session, 1, again=True) == [row]
    with loop.runtime.sessions() as session:
        assert session.get_one(Task, row).problem


def test_another_encoder_makes_every_task_wait_again(loop: Loop) -> None:
    row = add(loop, 1, "good.png")
    encode_task(loop.runtime, row)
    with loop.runtime.sessions.begin() as session:
        session.query(Embedding).update({"encoder": "another"})
    assert waiting(loop) == [row]


def test_an_unknown_task_row_is_said(loop: Loop) -> None:
    with pytest.raises(UnknownRecordError, match="no task row 7"):
        encode_task(loop.runtime, 7)
