from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from pipeline.errors import DatabaseError, SettingsError
from pipeline.record.engine import KEPT, lock, make_engine, make_sessions, upgrade
from pipeline.record.migrations.runner import alembic_config
from pipeline.record.tables import Base, Event, Image, ModelVersion, Task
from pipeline.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def sessions(settings: Settings) -> sessionmaker[Session]:
    upgrade(settings)
    return make_sessions(settings)


def event(key: str) -> Event:
    return Event(key=key, action="TEST", payload={"key": key})


def count(sessions: sessionmaker[Session]) -> int:
    with sessions() as session:
        return len(session.scalars(select(Event)).all())


def test_upgrade_makes_every_table_and_the_schema_matches_the_models(settings: Settings) -> None:
    upgrade(settings)
    upgrade(settings)
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
    upgrade(settings)
    with make_sessions(settings)() as session:
        (version,) = session.scalars(select(ModelVersion))
        assert (version.name, version.status, version.source) == ("base", "serving", None)
        session.add(ModelVersion(name="b", encoder="e", sha256="s", key="k", status="serving"))
        with pytest.raises(IntegrityError):  # the index that allows one to serve is still there
            session.commit()


def test_downgrade_leaves_nothing(settings: Settings) -> None:
    upgrade(settings)
    with make_engine(settings).begin() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]


def test_sqlite_is_opened_for_several_processes(sessions: sessionmaker[Session]) -> None:
    with sessions() as session:
        assert session.scalar(text("PRAGMA journal_mode")) == "wal"
        assert session.scalar(text("PRAGMA foreign_keys")) == 1
        assert session.scalar(text("PRAGMA busy_timeout")) == 30_000


def test_foreign_keys_hold(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.add(Task(ls_project_id=1, ls_task_id=1, url="x", image_id=12345))


def test_a_block_that_fails_leaves_nothing(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(RuntimeError), sessions.begin() as session:
        session.add(event("a"))
        session.flush()
        raise RuntimeError
    assert count(sessions) == 0


def test_a_savepoint_does_not_commit_the_block_around_it(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(RuntimeError), sessions.begin() as session:
        with session.begin_nested():
            session.add(event("inner"))
        raise RuntimeError
    assert count(sessions) == 0


def test_a_failed_savepoint_spares_the_block_around_it(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(event("a"))
        session.flush()
        with pytest.raises(IntegrityError), session.begin_nested():
            session.add(event("a"))
        session.add(event("b"))
    assert count(sessions) == 2


def test_read_then_write_waits_for_another_writer(sessions: sessionmaker[Session]) -> None:
    """With a plain BEGIN this is SQLite's "database is locked", at once and despite any timeout."""
    with sessions.begin() as session:
        assert session.scalars(select(Event)).all() == []
        with sessions.begin() as other:
            other.add(event("other"))
        session.add(event("mine"))
    assert count(sessions) == 2


def test_readers_do_not_wait_for_a_writer(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(event("unseen"))
        session.flush()
        assert count(sessions) == 0


def _write_many(settings: Settings, name: str) -> None:
    sessions = make_sessions(settings)
    for number in range(40):
        with sessions.begin() as session:
            session.scalars(select(Event).limit(1)).all()
            session.add(event(f"{name}-{number}"))


def test_processes_and_threads_write_at_once(
    settings: Settings, sessions: sessionmaker[Session]
) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_write_many, args=(settings, f"process-{number}"))
        for number in range(2)
    ]
    for process in processes:
        process.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: _write_many(settings, f"thread-{n}"), range(4)))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert count(sessions) == 6 * 40


def test_a_lock_keeps_read_then_write_together(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(Event(key="counter", action="TEST", payload={"value": 0}))

    def add_one(_: int) -> None:
        with sessions.begin() as session:
            lock(session, "counter")
            row = session.scalars(select(Event)).one()
            row.payload = {"value": row.payload["value"] + 1}

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(add_one, range(60)))
    with sessions() as session:
        assert session.scalars(select(Event)).one().payload == {"value": 60}


def test_a_lock_after_a_write_is_no_second_begin(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(event("a"))
        session.flush()
        lock(session, "x")
        lock(session, "y")
    assert count(sessions) == 1


def test_upgrades_at_once_from_several_threads(settings: Settings) -> None:
    gate = threading.Barrier(4)

    def run(_: int) -> None:
        gate.wait()
        upgrade(settings)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    with make_engine(settings).connect() as connection:
        assert "image" in inspect(connection).get_table_names()


def test_a_killed_writer_leaves_a_sound_database(
    settings: Settings, sessions: sessionmaker[Session]
) -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from pipeline.record.engine import make_sessions\n"
        "from pipeline.settings import Settings\n"
        "from pipeline.record.tables import Event\n"
        f"sessions = make_sessions(Settings(home=Path({str(settings.home)!r})))\n"
        "with sessions.begin() as s: s.add(Event(key='kept', action='T', payload={}))\n"
        "with sessions.begin() as s:\n"
        "    s.add(Event(key='lost', action='T', payload={})); s.flush(); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with sessions.begin() as session:
        assert [row.key for row in session.scalars(select(Event))] == ["kept"]
        assert session.scalar(text("PRAGMA integrity_check")) == "ok"
        session.add(event("after"))


def test_a_fork_does_not_share_connections(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(event("parent"))
    engine = sessions.kw["bind"]
    assert engine.pool.checkedin() == 1
    child = os.fork()
    if child == 0:
        os._exit(0 if engine.pool.checkedin() == 0 and count(sessions) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_tables_that_are_not_ours_are_left_alone(settings: Settings) -> None:
    settings.home.mkdir()
    file = settings.home / "maskloop.sqlite3"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE task (id INTEGER, title TEXT)")
        connection.execute("INSERT INTO task VALUES (1, 'keep me')")
    connection.close()
    with pytest.raises(DatabaseError, match="task.*a database of its own"):
        upgrade(settings)
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
        upgrade(settings)
    assert count(sessions) == 1


def test_a_file_that_is_no_database_is_left_alone(settings: Settings) -> None:
    settings.home.mkdir()
    file = settings.home / "maskloop.sqlite3"
    file.write_bytes(b"my diary " * 1000)
    with pytest.raises(DatabaseError, match="cannot be opened"):
        upgrade(settings)
    assert file.read_bytes() == b"my diary " * 1000


def test_every_thread_of_a_backend_may_have_a_connection(settings: Settings) -> None:
    engine = make_engine(settings)
    try:
        connections = [engine.connect() for _ in range(60)]
        assert engine.pool.checkedout() == 60
        for connection in connections:
            connection.close()
        assert engine.pool.checkedin() == KEPT
    finally:
        engine.dispose()


def test_three_processes_get_along_with_what_postgresql_allows(tmp_path: Path) -> None:
    address = "postgresql+psycopg://u:secret@127.0.0.1:9/d"
    pool = make_engine(Settings(home=tmp_path, database_url=address)).pool
    assert isinstance(pool, QueuePool)
    assert pool.size() == KEPT
    assert 20 < pool.size() + pool._max_overflow < 100 / 3


@pytest.mark.parametrize(
    "address",
    ["mysql://x/y", "nonsense", "sqlite://", "sqlite:///:memory:", "postgres://u:secret@h/d"],
)
def test_addresses_that_cannot_be_used(tmp_path: Path, address: str) -> None:
    with pytest.raises(SettingsError, match="database_url") as caught:
        make_engine(Settings(home=tmp_path, database_url=address))
    assert "secret" not in str(caught.value)


def test_a_database_out_of_reach_is_one_sentence_without_the_password(tmp_path: Path) -> None:
    address = "postgresql+psycopg://u:secret@127.0.0.1:9/d"
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        upgrade(Settings(home=tmp_path, database_url=address))
    assert "secret" not in str(caught.value)


def test_a_home_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(DatabaseError, match="another home folder"):
        make_engine(Settings(home=tmp_path / "home" / "below"))


def test_moments_keep_their_zone(sessions: sessionmaker[Session]) -> None:
    with sessions.begin() as session:
        session.add(Image(sha256="0" * 64, width=1, height=1, extension="png", split="train"))
    with sessions() as session:
        made = session.scalars(select(Image)).one().created_at
    offset = made.utcoffset()
    assert offset is not None and offset.total_seconds() == 0
