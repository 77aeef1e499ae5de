"""The record on a real PostgreSQL, where its server is installed (Debian: postgresql)."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic import command
from PIL import Image as Pillow
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import DatabaseError
from pipeline.images.catalog import task_row
from pipeline.labelstudio.regions import brush_region
from pipeline.masks.coded import CodedMask
from pipeline.record import annotation_rows, schema, tasks
from pipeline.record.engine import lock, make_engine, sessions_on
from pipeline.record.migrations.runner import alembic_config
from pipeline.record.tables import Annotation, Base, Event, ModelVersion, Region, Task, now
from pipeline.record.tables.base import key, words
from pipeline.runtime import Runtime
from pipeline.settings import Settings
from pipeline.sync.annotations import apply_annotation
from tests.services.postgresql import new_database

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(postgresql: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings with a separate database for each test."""
    address = new_database(postgresql, f"test_{abs(hash(request.node.name))}")
    return Settings(home=tmp_path, database_url=address)


@pytest.fixture
def sessions(settings: Settings) -> Iterator[sessionmaker[Session]]:
    schema.upgrade(settings)
    made = sessions_on(make_engine(settings))
    yield made
    made().get_bind().dispose()


def test_the_schema_matches_the_models_and_goes_back(settings: Settings) -> None:
    schema.upgrade(settings)
    schema.upgrade(settings)
    engine = make_engine(settings)
    with engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) > set(Base.metadata.tables)
        command.check(alembic_config(connection))
        connection.rollback()
        with connection.begin():
            command.downgrade(alembic_config(connection), "base")
            assert inspect(connection).get_table_names() == ["alembic_version"]
    engine.dispose()


def test_upgrades_at_once(settings: Settings) -> None:
    gate = threading.Barrier(4)

    def run(_: int) -> None:
        gate.wait()
        schema.upgrade(settings)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))


def test_tables_that_are_not_ours_are_left_alone(settings: Settings) -> None:
    engine = make_engine(settings)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE task (title TEXT)"))
    with pytest.raises(DatabaseError, match="task"):
        schema.upgrade(settings)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == ["task"]
    engine.dispose()


def test_a_lock_keeps_read_then_write_together(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(Event(key="counter", action="TEST", payload={"value": 0}))

    def add_one(_: int) -> None:
        with sessions.begin() as session:
            lock(session, "counter")
            row = session.scalars(select(Event)).one()
            row.payload = {"value": row.payload["value"] + 1}

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add_one, range(40)))
    with sessions() as session:
        assert session.scalars(select(Event)).one().payload == {"value": 40}


def test_rows_written_at_once_are_one_row(sessions: sessionmaker[Session]) -> None:
    gate = threading.Barrier(4)

    def write(_: int) -> int:
        gate.wait()
        with sessions.begin() as session:
            return task_row(session, 1, 1, "/data/a").id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(write, range(4)))) == 1
    with sessions() as session:
        row = session.scalars(select(Task)).one()
        offset = row.created_at.utcoffset()
        assert offset is not None and offset.total_seconds() == 0


def test_only_one_version_serves(sessions: sessionmaker[Session]) -> None:
    def version(name: str) -> ModelVersion:
        return ModelVersion(name=name, encoder="e", sha256="0", key="k", status="serving")

    with sessions.begin() as session:
        session.add(version("a"))
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.add(version("b"))


@pytest.mark.parametrize(
    ("region_id", "label"),
    [
        ("r" * 65, "Object"),
        ("r" * 500, "L" * 300),
        ("r" * 100_000, "L" * 100_000),
        ("a\0b", "with\0NUL"),
        ("half \ud83d", "half \ud83d"),
        ("", ""),
    ],
)
def test_every_region_that_label_studio_accepts_arrives(
    settings: Settings, region_id: str, label: str
) -> None:
    with Runtime(settings, migrate=True) as runtime:
        task_id = accepted_disc(runtime, region_id, label)
        with runtime.sessions() as session:
            (region,) = session.scalars(select(Region))
            assert region.ls_region_id == key(region_id or "#0")
            assert region.label == words(label)
            assert session.get_one(Task, task_id).status == "accepted"
        again = annotation_of(region_id, label, updated_at="2026-01-02T00:00:00+00:00")
        assert apply_annotation(runtime, task_id, again).changed
        with runtime.sessions() as session:
            (kept,) = session.scalars(select(Region))
            assert kept.id == region.id  # A long id is still the same region.


def test_a_round_leaves_a_task_alone_that_was_accepted_meanwhile(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        rows = [Task(ls_project_id=1, ls_task_id=number, url="/x") for number in (1, 2)]
        session.add_all(rows)
    chosen = [row.id for row in rows]
    with sessions.begin() as round_session:
        assert tasks.unlabelled(round_session, 1) == set(chosen)
        with sessions.begin() as annotator:  # It commits between the look and the write.
            annotator.get_one(Task, chosen[0]).status = "accepted"
        tasks.queue(round_session, 1, chosen)
    with sessions() as session:
        assert [session.get_one(Task, number).status for number in chosen] == ["accepted", "queued"]


def test_two_annotations_of_one_task_at_once_lose_no_status(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        task = Task(ls_project_id=1, ls_task_id=1, url="/x")
        session.add(task)
        session.flush()
        for number in (1, 2):
            session.add(annotation_row(number, task.id, was_cancelled=False))
        task.status = "accepted"
    gate = threading.Barrier(2)

    def skip(number: int) -> None:
        """Turn one annotation into a skipped one. Each alone leaves the task accepted."""
        with sessions.begin() as session:
            row = annotation_rows.put(session, number, task.id)
            row.was_cancelled = True
            session.flush()
            gate.wait()  # Both have written, and neither has committed.
            annotation_rows.set_status(session, session.get_one(Task, task.id))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(skip, (1, 2)))
    with sessions() as session:
        assert session.get_one(Task, task.id).status == "skipped"


def annotation_row(number: int, task_id: int, **fields: bool) -> Annotation:
    return Annotation(ls_annotation_id=number, task_id=task_id, ls_updated_at=now(), **fields)


def annotation_of(region_id: str, label: str, *, updated_at: str) -> Any:
    mask = np.zeros((20, 30), dtype=np.bool_)
    mask[:10, :10] = True
    coded = CodedMask.of_mask(mask)
    region = brush_region(
        region_id=region_id, mask=coded, label=label, from_name="mask", to_name="image"
    )
    return {
        "id": 7,
        "result": [region],
        "was_cancelled": False,
        "created_username": "Ann\0 O. Tator ann@example.com, 3",
        "updated_at": updated_at,
    }


def accepted_disc(runtime: Runtime, region_id: str, label: str) -> int:
    """The row of a task with an image and one accepted region."""
    file = io.BytesIO()
    Pillow.fromarray(np.full((20, 30, 3), 99, dtype=np.uint8)).save(file, format="PNG")
    image = runtime.catalog.register(file.getvalue())
    with runtime.sessions.begin() as session:
        task = Task(ls_project_id=1, ls_task_id=1, url="/data/a.png", image_id=image.id)
        session.add(task)
        session.flush()
    annotation = annotation_of(region_id, label, updated_at="2026-01-01T00:00:00+00:00")
    assert apply_annotation(runtime, task.id, annotation).regions == 1
    return task.id


def test_a_server_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"postgresql+psycopg://me:secret@127.0.0.1:{port}/x"
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        schema.upgrade(Settings(home=tmp_path, database_url=address))
    assert "secret" not in str(caught.value)
