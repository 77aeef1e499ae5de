"""The SQL record: engines, sessions, and locks between processes.

Use sessions as ``with sessions.begin() as session: ...`` and keep those blocks short. A transaction
then means the same on both databases: each SELECT sees what was committed before it, the first
write takes the locks it needs, and the block commits all of its changes or none.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from pipeline.errors import DatabaseError, SettingsError
from pipeline.settings import Settings

BUSY_SECONDS = 30  # how long a writer waits for another process's write on SQLite
CONNECT_SECONDS = 5
# ``KEPT`` connections stay open; more are opened while all of those are in use. A process of the
# backend has about sixty threads that use the database: 16 for clicks, 40 for webhooks and pages,
# and a few of its own. On SQLite each thread may have a connection, because a writer holds one
# while it waits for another process. PostgreSQL accepts 100 connections in all, so the limit here
# leaves room for three processes. A thread that finds all connections in use waits for one. That
# wait is short as long as no thread holds a connection during slow work such as a download.
KEPT = 5
MORE_SQLITE, MORE_POSTGRESQL = 59, 25


def make_engine(settings: Settings) -> Engine:
    """The engine of ``settings.sql_url``; nothing is connected to yet.

    Raises:
        SettingsError: the address is not one of SQLite or PostgreSQL.
        DatabaseError: the folder of the SQLite file cannot be made.
    """
    url = _read_url(settings.sql_url)
    if url.get_backend_name() == "postgresql":
        return create_engine(
            url,
            pool_size=KEPT,
            max_overflow=MORE_POSTGRESQL,
            pool_pre_ping=True,
            connect_args={"connect_timeout": CONNECT_SECONDS},
        )
    _make_parent(url)
    # With this setting sqlite3 sends BEGIN IMMEDIATE before the first write and nothing before a
    # read. After a plain BEGIN two processes could read and then both try to write, and one of them
    # would fail at once: SQLite does not wait for a lock when that would be a deadlock. A database
    # file gets a pool of connections, which the threads share.
    engine = create_engine(
        url,
        pool_size=KEPT,
        max_overflow=MORE_SQLITE,
        connect_args={"isolation_level": "IMMEDIATE", "timeout": BUSY_SECONDS},
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "savepoint", _begin_before_savepoint)
    _forget_connections_in_children(engine)
    return engine


def make_reader(settings: Settings) -> Engine:
    """An engine that looks at a database and changes nothing about it: where ``make_engine`` makes
    a folder and sets how a SQLite file is kept, this one leaves every byte as it is.

    SQLite makes a file that is missing when it is connected to, so look for the file first.

    Raises:
        SettingsError: the address is not one of SQLite or PostgreSQL.
    """
    url = _read_url(settings.sql_url)
    is_postgresql = url.get_backend_name() == "postgresql"
    patience = {"connect_timeout": CONNECT_SECONDS} if is_postgresql else {"timeout": BUSY_SECONDS}
    return create_engine(url, poolclass=NullPool, connect_args=patience)


def sessions_on(engine: Engine) -> sessionmaker[Session]:
    """Sessions on an engine that the caller closes. Rows stay readable after the commit."""
    return sessionmaker(engine, expire_on_commit=False)


def lock(session: Session, name: str) -> None:
    """Hold the lock ``name`` until this transaction ends; others that ask for it wait.

    Use it where reading and writing must not be interrupted by another process, such as when a
    version starts to serve. SQLite allows one writer at a time, so there the transaction becomes
    the writer before its first read.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        begin_immediate(connection)
    else:
        hold(connection, name)


@contextmanager
def only_one(settings: Settings, name: str) -> Iterator[bool]:
    """Hold the lock ``name`` for the length of a block, without waiting and without a transaction.

    The value says whether this process got it; otherwise another one has it. It is released when
    the process dies.
    """
    engine = make_engine(settings)
    if engine.dialect.name == "sqlite":
        engine.dispose()
        # A SQLite database is used by one machine, so a file of that machine is enough.
        folder = settings.home.resolve() / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        return
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            key = {"key": _number(name)}
            yield bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key))
    finally:
        engine.dispose()  # The end of the connection releases the lock.


def hold(connection: Connection, name: str) -> None:
    """On PostgreSQL, hold the lock ``name`` until the transaction of ``connection`` ends."""
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _number(name)})


def _number(name: str) -> int:
    """An advisory lock of PostgreSQL is a number, valid within one database."""
    return crc32(f"maskloop:{name}".encode())


def begin_immediate(connection: Connection) -> None:
    """On SQLite, begin the transaction as its only writer, unless one has begun."""
    if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _read_url(address: str) -> URL:
    try:
        url = make_url(address)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        url = None
    # An in-memory SQLite database is refused: every thread would get its own.
    usable = url is not None and (
        url.get_backend_name() == "postgresql"
        or (url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"))
    )
    if url is None or not usable:
        raise SettingsError(
            "database_url is not an address maskloop can use; write it as "
            "postgresql+psycopg://user:password@host/name or sqlite:////folder/file.sqlite3."
        )
    return url


def _make_parent(url: URL) -> None:
    folder = Path(url.database or "").absolute().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(
            f"The folder {folder} for the database cannot be made ({error.strerror}); "
            "choose another home folder."
        ) from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")  # readers and the one writer do not block others
    cursor.execute("PRAGMA synchronous = NORMAL")  # with WAL, a crash of our process loses nothing
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_before_savepoint(connection: Connection, _name: str | None) -> None:
    # Outside a transaction SQLite treats SAVEPOINT as BEGIN and RELEASE as COMMIT, so the writes
    # of the inner block would stay even when the outer block is rolled back.
    begin_immediate(connection)


def _forget_connections_in_children(engine: Engine) -> None:
    # A SQLite connection used on both sides of a fork corrupts the file. Celery forks.
    reference = weakref.ref(engine)

    def forget() -> None:
        parents = reference()
        if parents is not None:
            parents.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
