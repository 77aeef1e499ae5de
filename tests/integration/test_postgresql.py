"""The record on a real PostgreSQL, where its server is installed (Debian: postgresql)."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from alembic import command
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import DatabaseError
from pipeline.images.catalog import task_row
from pipeline.record import schema
from pipeline.record.engine import lock, make_engine, sessions_on
from pipeline.record.migrations.runner import alembic_config
from pipeline.record.tables import Base, Event, ModelVersion, Task
from pipeline.settings import Settings

pytestmark = pytest.mark.integration


def _binaries() -> Path | None:
    """The folder with initdb and postgres; Debian keeps it off the PATH."""
    folders = [Path(name) for name in sorted(glob.glob("/usr/lib/postgresql/*/bin"))]
    found = shutil.which("initdb")
    folders += [Path(found).parent] if found else []
    return next((each for each in reversed(folders) if (each / "postgres").exists()), None)


def _as_someone() -> Callable[[], None] | None:
    """PostgreSQL refuses to run as root, so it runs as the account that Debian's package made."""
    if os.getuid() != 0:
        return None
    account = pwd.getpwnam("postgres")

    def become() -> None:
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    return become


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a separate server, on a socket in a temporary folder, without a database."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    become = _as_someone()
    with tempfile.TemporaryDirectory(prefix="maskloop-pg-") as name:
        folder = Path(name)
        if become is not None:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        data = folder / "data"
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "maskloop", "-A", "trust", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, preexec_fn=become, cwd=folder)
        control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "60"]
        options = f"-c listen_addresses='' -k {folder} -F"
        start = [*control, "-o", options, "-l", str(folder / "log"), "start"]
        subprocess.run(start, check=True, capture_output=True, preexec_fn=become, cwd=folder)
        try:
            yield f"postgresql+psycopg://maskloop@/{{}}?host={quote(name, safe='')}"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, capture_output=True, preexec_fn=become, cwd=folder)


@pytest.fixture
def settings(server: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """Settings with a separate database for each test."""
    name = f"test_{abs(hash(request.node.name))}"
    admin = make_engine(Settings(home=tmp_path, database_url=server.format("postgres")))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return Settings(home=tmp_path, database_url=server.format(name))


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


def test_a_server_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"postgresql+psycopg://me:secret@127.0.0.1:{port}/x"
    with pytest.raises(DatabaseError, match="cannot be opened") as caught:
        schema.upgrade(Settings(home=tmp_path, database_url=address))
    assert "secret" not in str(caught.value)
