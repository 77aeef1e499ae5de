from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

from pipeline.errors import DatabaseError, SettingsError
from pipeline.record import schema
from pipeline.record.engine import KEPT, lock, make_engine, only_one, sessions_on
from pipeline.record.tables import Event, Image, Task
from pipeline.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture
def sessions(settings: Settings) -> sessionmaker[Session]:
    schema.upgrade(settings)
    return sessions_on(make_engine(settings))


def event(key: str) -> Event:
    return Event(key=key, action="TEST", payload={"key": key})


def count(sessions: sessionmaker[Session]) -> int:
    with sessions() as session:
        return len(session.scalars(select(Event)).all())


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
    sessions = sessions_on(make_engine(settings))
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


def test_a_killed_writer_leaves_a_sound_database(
    settings: Settings, sessions: sessionmaker[Session]
) -> None:
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from pipeline.record.engine import make_engine, sessions_on\n"
        "from pipeline.settings import Settings\n"
        "from pipeline.record.tables import Event\n"
        f"sessions = sessions_on(make_engine(Settings(home=Path({str(settings.home)!r}))))\n"
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
    engine = sessions().get_bind()
    assert engine.pool.checkedin() == 1
    child = os.fork()
    if child == 0:
        os._exit(0 if engine.pool.checkedin() == 0 and count(sessions) == 1 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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


def test_only_one_process_at_a_time_holds_a_name(settings: Settings) -> None:
    with only_one(settings, "reconcile") as first:
        assert first
        with only_one(settings, "reconcile") as second, only_one(settings, "other") as other:
            assert (second, other) == (False, True)
    with only_one(settings, "reconcile") as again:
        assert again
