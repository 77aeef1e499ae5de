"""Who brings the database to the newest schema, and who only looks at it.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import DatabaseError, SettingsError
from pipeline.record import schema
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.migrations.runner import alembic_config
from pipeline.record.tables import Annotation, Base, Event, Image, ModelVersion, Region, Task, now
from pipeline.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def sessions(settings: Settings) -> Iterator[sessionmaker[Session]]:
    schema.upgrade(settings)
    made = sessions_on(make_engine(settings))
    yield made
    made().get_bind().dispose()


def event(key: str) -> Event:
    return Event(key=key, action="TEST", payload={"key": key})


def count(sessions: sessionmaker[Session]) -> int:
    with sessions() as session:
        return len(session.scalars(select(Event)).all())


def file_of(settings: Settings) -> Path:
    return settings.home / "maskloop.sqlite3"


def made_at(settings: Settings, revision: str) -> None:
    """Make a database as an older maskloop left it."""
    engine = make_engine(settings)
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), revision)
        connection.commit()
    engine.dispose()


def test_upgrade_makes_every_table_and_the_schema_matches_the_models(settings: Settings) -> None:
    schema.upgrade(settings)
    schema.upgrade(settings)
    engine = make_engine(settings)
    with engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {
            *Base.metadata.tables,
            "alembic_version",
        }
        command.check(alembic_config(connection))  # raises when a model has no migration


def test_a_database_of_the_first_schema_keeps_what_it_holds(settings: Settings) -> None:
    with make_engine(settings).connect() as connection:
        command.upgrade(alembic_config(connection), "0001")
        columns = "name, encoder, sha256, key, status, created_at"
        values = "'base', 'e', 's', 'k', 'serving', '2026-11-01 00:00:00'"
        connection.execute(text(f"INSERT INTO model_version ({columns}) VALUES ({values})"))
        connection.commit()
    schema.upgrade(settings)
    with sessions_on(make_engine(settings))() as session:
        (version,) = session.scalars(select(ModelVersion))
        assert (version.name, version.status, version.source) == ("base", "serving", None)
        session.add(ModelVersion(name="b", encoder="e", sha256="s", key="k", status="serving"))
        with pytest.raises(IntegrityError):  # the index that allows one to serve is still there
            session.commit()


def test_downgrade_leaves_nothing(settings: Settings) -> None:
    schema.upgrade(settings)
    with make_engine(settings).begin() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_upgrades_at_once_from_several_threads(settings: Settings) -> None:
    gate = threading.Barrier(4)

    def run(_: int) -> None:
        gate.wait()
        schema.upgrade(settings)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    with make_engine(settings).connect() as connection:
        assert "image" in inspect(connection).get_table_names()


def test_tables_that_are_not_ours_are_left_alone(settings: Settings) -> None:
    settings.home.mkdir()
    file = settings.home / "maskloop.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE task (id INTEGER, title TEXT)")
        connection.execute("INSERT INTO task VALUES (1, 'keep me')")
    connection.close()
    with pytest.raises(DatabaseError, match="task.*a database of its own"):
        schema.upgrade(settings)
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT * FROM task").fetchall() == [(1, "keep me")]
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()
    assert tables == [("task",)]


def test_a_newer_database_is_left_alone(
    settings: Settings, sessions: sessionmaker[Session]
) -> None:
    with sessions.begin() as session:
        session.add(event("kept"))
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(DatabaseError, match="revision 9999"):
        schema.upgrade(settings)
    assert count(sessions) == 1


def test_a_file_that_is_no_database_is_left_alone(settings: Settings) -> None:
    settings.home.mkdir()
    file = settings.home / "maskloop.sqlite3"
    file.write_bytes(b"my diary " * 1000)
    with pytest.raises(DatabaseError, match="cannot be opened"):
        schema.upgrade(settings)
    assert file.read_bytes() == b"my diary " * 1000


def test_a_database_out_of_reach_is_one_sentence_without_the_password(tmp_path: Path) -> None:
    address = "postgresql+psycopg://u:secret@127.0.0.1:9/d"
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        schema.upgrade(Settings(home=tmp_path, database_url=address))
    assert "secret" not in str(caught.value)


# --- looking at it ---


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_looking_at_what_is_not_there_makes_nothing(settings: Settings, tmp_path: Path) -> None:
    for address in ("", f"sqlite+pysqlite:///{tmp_path}/other/a.sqlite3"):
        looked_at = settings.model_copy(update={"database_url": address})
        assert schema.read_schema(looked_at).state == "missing"
        with pytest.raises(DatabaseError, match=r"no maskloop database at .* `maskloop upgrade`"):
            schema.check(looked_at)
    assert list(tmp_path.iterdir()) == []


def test_looking_at_an_empty_database_leaves_it_empty(settings: Settings) -> None:
    settings.home.mkdir()
    file_of(settings).touch()
    assert schema.read_schema(settings).state == "empty"
    with pytest.raises(DatabaseError, match=r"no maskloop database at .* `maskloop upgrade`"):
        schema.check(settings)
    assert everything(settings.home) == {"maskloop.sqlite3": b""}


def test_looking_at_tables_of_somebody_elses_leaves_them_alone(settings: Settings) -> None:
    settings.home.mkdir()
    with closing(sqlite3.connect(file_of(settings))) as connection:
        connection.execute("CREATE TABLE notes (title TEXT)")
    before = everything(settings.home)
    assert schema.read_schema(settings).state == "empty"
    assert everything(settings.home) == before


@pytest.mark.parametrize("revision", ["0001", "0002"])
def test_looking_at_an_older_database_leaves_it_as_it_is(settings: Settings, revision: str) -> None:
    made_at(settings, revision)
    before = everything(settings.home)
    assert schema.read_schema(settings).state == "older"
    with pytest.raises(DatabaseError, match=r"an older maskloop; run `maskloop upgrade`"):
        schema.check(settings)
    assert everything(settings.home) == before
    schema.upgrade(settings)
    assert schema.read_schema(settings).state == "newest"
    schema.check(settings)


def test_a_database_of_a_newer_maskloop_is_told(settings: Settings) -> None:
    schema.upgrade(settings)
    with closing(sqlite3.connect(file_of(settings))) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert schema.read_schema(settings).state == "newer"
    with pytest.raises(DatabaseError, match="a newer maskloop; install that one"):
        schema.check(settings)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    address = "postgresql+psycopg://u:secret@127.0.0.1:9/d"
    for ask in (schema.read_schema, schema.check):
        with pytest.raises(DatabaseError, match="cannot be opened") as caught:
            ask(Settings(home=tmp_path, database_url=address))
        assert "secret" not in str(caught.value)


def test_an_address_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    for ask in (schema.read_schema, schema.check, schema.upgrade):
        with pytest.raises(SettingsError, match="database_url"):
            ask(Settings(home=tmp_path, database_url="mysql://x/y"))


# --- the checksum of each mask ---

MASKS = [b"first", b"second", b"first", b""]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def made_with_regions(settings: Settings, masks: list[bytes]) -> None:
    """A database of revision 0002 with one annotation that has these masks."""
    made_at(settings, "0002")
    moment = "2026-11-01 00:00:00"
    with closing(sqlite3.connect(file_of(settings))) as connection, connection:
        connection.execute(
            "INSERT INTO image (id, sha256, width, height, extension, split, created_at)"
            " VALUES (1, 'i', 1, 1, 'png', 'train', ?)",
            (moment,),
        )
        connection.execute(
            "INSERT INTO task (id, ls_project_id, ls_task_id, image_id, url, status, created_at)"
            " VALUES (1, 1, 1, 1, 'a.png', 'accepted', ?)",
            (moment,),
        )
        connection.execute(
            "INSERT INTO annotation (id, task_id, ls_annotation_id, was_cancelled, prompts_only,"
            " deleted, ls_updated_at, seen_at) VALUES (1, 1, 1, 0, 0, 0, ?, ?)",
            (moment, moment),
        )
        connection.executemany(
            "INSERT INTO region (annotation_id, image_id, ls_region_id, label, mask, area,"
            " created_at) VALUES (1, 1, ?, 'object', ?, 1, ?)",
            [(f"r{number}", mask, moment) for number, mask in enumerate(masks)],
        )


def checksums(settings: Settings) -> list[tuple[bytes, str]]:
    sessions = sessions_on(make_engine(settings))
    with sessions() as session:
        rows = session.execute(select(Region.mask, Region.mask_sha256).order_by(Region.id))
        found = [(row[0], row[1]) for row in rows]
    sessions().get_bind().dispose()
    return found


def test_masks_that_are_there_get_their_checksums(settings: Settings) -> None:
    made_with_regions(settings, MASKS)
    schema.upgrade(settings)
    assert checksums(settings) == [(mask, sha256(mask)) for mask in MASKS]


def test_more_masks_than_are_read_at_a_time_all_get_theirs(settings: Settings) -> None:
    masks = [str(number).encode() for number in range(1203)]
    made_with_regions(settings, masks)
    schema.upgrade(settings)
    assert checksums(settings) == [(mask, sha256(mask)) for mask in masks]


def test_a_region_without_a_checksum_is_refused(settings: Settings) -> None:
    made_with_regions(settings, MASKS)
    schema.upgrade(settings)
    with (
        closing(sqlite3.connect(file_of(settings))) as connection,
        pytest.raises(sqlite3.IntegrityError, match="mask_sha256"),
    ):
        connection.execute("UPDATE region SET mask_sha256 = NULL")


def test_a_mask_that_changes_changes_its_checksum(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        image = Image(sha256="i", width=1, height=1, extension="png", split="train")
        task = Task(ls_project_id=1, ls_task_id=1, url="a.png")
        session.add_all([image, task])
        session.flush()
        annotation = Annotation(task_id=task.id, ls_annotation_id=1, ls_updated_at=now())
        session.add(annotation)
        session.flush()
        region = Region(
            annotation_id=annotation.id,
            image_id=image.id,
            ls_region_id="r",
            label="object",
            mask=b"before",
            area=1,
        )
        assert region.mask_sha256 == sha256(b"before")
        session.add(region)
    with sessions.begin() as session:
        session.scalars(select(Region)).one().mask = b"after"
    with sessions() as session:
        kept = session.scalars(select(Region)).one()
        assert (kept.mask, kept.mask_sha256) == (b"after", sha256(b"after"))
