"""Copies the record from one database to another, also from PostgreSQL to SQLite and back.

A copy is a SQLite file. It shows the record at one moment, although others go on writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import (
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.pool import NullPool

from pipeline.record.tables import Base

PORTION = 500  # rows that are in memory at a time
VERSION_TABLE = "alembic_version"  # Alembic keeps the schema's revision in it


def copy_to_file(engine: Engine, path: Path) -> None:
    """Copy the whole database of ``engine`` into a new SQLite file.

    Raises:
        SQLAlchemyError, sqlite3.Error, OSError: it cannot be read, or the file cannot be written.
    """
    if engine.dialect.name == "sqlite":
        copy_sqlite(Path(str(engine.url.database)), path)
        return
    target = _file_engine(path)
    # In this isolation every statement sees what was committed when the first one began.
    one_moment = engine.connect().execution_options(isolation_level="REPEATABLE READ")
    with one_moment as source, source.begin(), target.begin() as copy:
        found = set(inspect(source).get_table_names())
        Base.metadata.create_all(copy)
        for table in Base.metadata.sorted_tables:
            if table.name in found:
                _copy_rows(source, copy, table)
        revision = source.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        copy.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL)"))
        copy.execute(
            text(f"INSERT INTO {VERSION_TABLE} VALUES (:revision)"), {"revision": revision}
        )
    target.dispose()


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a SQLite file as it is at one moment, while other processes use it.

    Raises:
        sqlite3.Error: it cannot be read, or the copy cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(target)) as writing,
    ):
        reading.backup(writing)
        # The copy is one file: a journal beside it would be lost when it is moved.
        writing.execute("PRAGMA journal_mode = DELETE")


def fill_from_file(path: Path, engine: Engine) -> None:
    """Write all rows of a copy into a database that has the newest schema and no rows.

    Args:
        path: a copy with the newest schema.

    Raises:
        SQLAlchemyError: it cannot be read, or the database does not take a row.
    """
    source = _file_engine(path)
    with source.connect() as copy, engine.begin() as target:
        for table in Base.metadata.sorted_tables:
            _copy_rows(copy, target, table)
            if engine.dialect.name == "postgresql" and "id" in table.columns:
                _continue_numbers(target, table)
    source.dispose()


def is_empty(engine: Engine) -> bool:
    """Whether a database has no rows of maskloop's."""
    with engine.connect() as connection:
        found = set(inspect(connection).get_table_names())
        return not any(
            connection.scalar(select(func.count()).select_from(table))
            for table in Base.metadata.sorted_tables
            if table.name in found
        )


def _copy_rows(source: Connection, target: Connection, table: Table) -> None:
    # Only the columns that the source has: a copy made before a migration lacks the newer ones.
    known = {column["name"] for column in inspect(source).get_columns(table.name)}
    columns = [column for column in table.columns if column.name in known]
    statement = select(*columns).order_by(*table.primary_key.columns)
    rows = source.execution_options(yield_per=PORTION).execute(statement)
    for portion in rows.mappings().partitions():
        target.execute(insert(table), [dict(row) for row in portion])


def _continue_numbers(connection: Connection, table: Table) -> None:
    """Let PostgreSQL go on counting after the rows that came with their numbers."""
    highest = connection.scalar(select(func.max(table.c.id)))
    if highest is not None:
        sequence = func.pg_get_serial_sequence(table.name, "id")
        connection.execute(select(func.setval(sequence, highest)))


def _file_engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    event.listen(engine, "connect", _without_checks)
    return engine


def _without_checks(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")  # The rows were checked where they come from.


@contextmanager
def integrity(path: Path) -> Iterator[sqlite3.Connection]:
    """A SQLite file, opened for reading, after SQLite has looked at every page of it.

    Raises:
        sqlite3.DatabaseError: it is damaged, or is no SQLite file.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(found)
        yield connection
