"""The SQL record: engines, sessions, and bringing a database to the newest schema.

Use sessions as ``with sessions.begin() as session: ...`` and keep those blocks short. On both
databases a transaction then means the same: each SELECT sees what was committed before it, the
first write takes what it must lock, and the block commits whole or not at all.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import DatabaseError, SettingsError
from pipeline.settings import Settings

BUSY_SECONDS = 30  # how long a writer waits for another process's write on SQLite
CONNECT_SECONDS = 5
# Connections kept open, and opened beside them while all those are in use. A process of the
# backend has some sixty threads that ask the database: 16 for clicks, 40 for webhooks and pages,
# and a few of its own. On SQLite each may have a connection: a writer holds one while it waits for
# another process. PostgreSQL takes 100 from everybody together, so here three processes get along,
# and a thread that finds all in use waits its turn, which comes soon, as long as nobody holds a
# connection while something else, such as a download, takes its time.
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
    # sqlite3 then says BEGIN IMMEDIATE before the first write and nothing before a read. A plain
    # BEGIN would let two processes read, then write, and fail one of them at once: SQLite does
    # not wait for a lock whose wait could not end well. A file gets a pool; threads share it.
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


def make_sessions(settings: Settings) -> sessionmaker[Session]:
    """Sessions on a fresh engine; make one per process. Rows stay readable after the commit."""
    return sessionmaker(make_engine(settings), expire_on_commit=False)


def upgrade(settings: Settings) -> None:
    """Bring the database to the newest schema, making it when it is empty. Safe to call often.

    All steps are one transaction: a failure leaves the database as it was.

    Raises:
        SettingsError: the address cannot be used.
        DatabaseError: out of reach, not maskloop's, or written by a newer maskloop.
    """
    from pipeline.record.migrations.runner import (
        upgrade_connection,  # Alembic takes a while to import
    )

    engine = make_engine(settings)
    try:
        with engine.connect() as connection, _schema_change(connection):
            upgrade_connection(connection)
    except DBAPIError as error:
        raise DatabaseError(
            f"The database at {engine.url.render_as_string()} cannot be opened "
            f"({_first_line(error)}); start it or mend database_url."
        ) from error
    finally:
        engine.dispose()


def lock(session: Session, name: str) -> None:
    """Hold ``name`` until this transaction ends; others asking for it wait.

    For read-then-write that must not interleave, such as moving a version to serving. On SQLite
    there is one writer anyway, so this takes that place before the first read.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        _begin_immediate(connection)
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _lock_key(name)})


def _read_url(address: str) -> URL:
    try:
        url = make_url(address)
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError):
        url = None
    # SQLite in memory would give every thread a database of its own.
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
    cursor.execute("PRAGMA synchronous = NORMAL")  # safe with WAL: a crash of ours loses nothing
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_before_savepoint(connection: Connection, _name: str | None) -> None:
    # SQLite takes a SAVEPOINT outside a transaction for a BEGIN, and its RELEASE for a COMMIT:
    # what the block wrote would stay even when the block as a whole is rolled back.
    _begin_immediate(connection)


def _begin_immediate(connection: Connection) -> None:
    if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _forget_connections_in_children(engine: Engine) -> None:
    # A SQLite connection used on both sides of a fork corrupts the file. Celery forks.
    reference = weakref.ref(engine)

    def forget() -> None:
        parents = reference()
        if parents is not None:
            parents.dispose(close=False)

    os.register_at_fork(after_in_child=forget)


@contextmanager
def _schema_change(connection: Connection) -> Iterator[None]:
    """One transaction that no other process changing the schema runs beside."""
    if connection.dialect.name == "sqlite":
        # Changing a SQLite table means copying and dropping it, which with foreign keys on would
        # delete the rows that point to it. The switch has no effect inside a transaction.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.commit()
    with connection.begin():
        if connection.dialect.name == "sqlite":
            _begin_immediate(connection)
        else:
            key = {"key": _lock_key("schema")}
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), key)
        yield
        if connection.dialect.name == "sqlite":
            orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if orphans:
                raise DatabaseError(
                    f"The new schema would leave {len(orphans)} rows pointing nowhere, so nothing "
                    "was changed; restore a backup or report this."
                )


def _lock_key(name: str) -> int:
    return crc32(f"maskloop:{name}".encode())  # an advisory lock is a number, its database's own


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).splitlines()[0].strip() if error.orig else "no reason given"
