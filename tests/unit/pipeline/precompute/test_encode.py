from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select

from pipeline.errors import ImageSourceError, UnknownRecordError
from pipeline.images.catalog import MOST_ADDRESS, image_key, task_row
from pipeline.labelstudio.client import RemoteTask
from pipeline.labelstudio.template import default_label_config
from pipeline.precompute.encode import encode_task, register_tasks
from pipeline.record import retries
from pipeline.record import tasks as task_rows
from pipeline.record.tables import Embedding, Image, Task, now
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
        return task_rows.to_encode(session, project)


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
        assert task_rows.to_encode(session, 1, again=True) == []  # not at once
        task = session.get_one(Task, row)
        assert task.problem and task.attempts == 1
        assert task.try_at is not None and task.try_at > now()
    for attempt in range(2, retries.MOST_ATTEMPTS + 1):
        with loop.runtime.sessions.begin() as session:
            session.get_one(Task, row).try_at = now()
        with loop.runtime.sessions() as session:
            assert task_rows.to_encode(session, 1, again=True) == [row], attempt
        with pytest.raises(ImageSourceError):
            encode_task(loop.runtime, row)
    with loop.runtime.sessions.begin() as session:
        session.get_one(Task, row).try_at = now()
        assert task_rows.to_encode(session, 1, again=True) == []  # quarantined
        assert [task.id for task in retries.quarantined_tasks(session, 5)] == [row]
        retries.release(session, Task)
        assert task_rows.to_encode(session, 1, again=True) == [row]


def test_another_encoder_makes_every_task_wait_again(loop: Loop) -> None:
    row = add(loop, 1, "good.png")
    encode_task(loop.runtime, row)
    with loop.runtime.sessions.begin() as session:
        session.query(Embedding).update({"encoder": "another"})
    assert waiting(loop) == [row]


def test_encoding_again_mends_a_store_that_lost_its_images(loop: Loop) -> None:
    row, other = add(loop, 1, "good.png"), add(loop, 2, "good.png")
    image = encode_task(loop.runtime, row)
    with loop.runtime.sessions() as session:
        key = image_key(session.get_one(Image, image))
    shutil.rmtree(loop.runtime.settings.store_address)
    assert encode_task(loop.runtime, row) == image
    assert loop.runtime.store.read(key) == disk_picture(1)[0]
    assert encode_task(loop.runtime, other) == image


def test_a_picture_in_place_of_its_address_costs_only_its_own_task(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = ["/data/local-files/?d=good.png", "data:image/png;base64," + "A" * MOST_ADDRESS]
    tasks = [
        RemoteTask(number, {"image": url}, datetime.now(UTC), 0)
        for number, url in enumerate(addresses, 1)
    ]
    client = SimpleNamespace(
        project=lambda _project: {"label_config": default_label_config()},
        tasks=lambda _project: tasks,
    )
    monkeypatch.setitem(vars(loop.runtime), "label_studio", client)
    for _ in range(2):
        assert register_tasks(loop.runtime, 1) == [1]
        with loop.runtime.sessions() as session:
            good, picture = session.scalars(select(Task).order_by(Task.ls_task_id))
        assert (good.url, good.problem, picture.url) == (addresses[0], None, "")
        assert "characters long" in (picture.problem or "")
    with pytest.raises(ImageSourceError, match="characters long"):
        encode_task(loop.runtime, picture.id)


def test_an_unknown_task_row_is_said(loop: Loop) -> None:
    with pytest.raises(UnknownRecordError, match="no task row 7"):
        encode_task(loop.runtime, 7)
