"""The schema of the database: bringing it to the newest revision, and checking it.

``maskloop up``, ``maskloop upgrade``, the workers and the backend call ``upgrade`` when they start.
Every other command calls ``check``, which changes nothing: a command that only reads must never
migrate a production database as a side effect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from pipeline.errors import DatabaseError
from pipeline.record.engine import begin_immediate, hold, make_engine, make_reader
from pipeline.settings import Settings


@dataclass(frozen=True)
class Schema:
    """The state of a database's schema.

    Attributes:
        state: ``missing``: there is no such SQLite file; ``empty``: it has no table of maskloop;
            ``older`` or ``newer`` than the schema of this maskloop.
        address: of the database, without a password.
    """

    state: Literal["missing", "empty", "older", "newest", "newer"]
    address: str


def upgrade(settings: Settings) -> None:
    """Bring the database to the newest schema, or make the schema when it is empty.

    It is safe to call this often. All steps are one transaction: a failure changes nothing.

    Raises:
        SettingsError: the address cannot be used.
        DatabaseError: out of reach, not maskloop's, or written by a newer maskloop.
    """
    from pipeline.record.migrations.runner import upgrade_connection  # Alembic imports slowly.

    engine = make_engine(settings)
    try:
        with _sentences(engine), engine.connect() as connection, _schema_change(connection):
            upgrade_connection(connection)
    finally:
        engine.dispose()


def check(settings: Settings) -> None:
    """Return when the database has the newest schema; change nothing.

    Raises:
        SettingsError: the address cannot be used.
        DatabaseError: out of reach, or its schema is not the newest; the message says what to do.
    """
    found = read_schema(settings)
    match found.state:
        case "missing" | "empty":
            raise DatabaseError(
                f"There is no maskloop database at {found.address} yet; run `maskloop upgrade` to "
                "make it, or mend database_url."
            )
        case "older":
            raise DatabaseError(
                f"The database at {found.address} has the schema of an older maskloop; run "
                "`maskloop upgrade` to bring it up to date."
            )
        case "newer":
            raise DatabaseError(
                f"The database at {found.address} was written by a newer maskloop; install that "
                "one, or use another database."
            )


def read_schema(settings: Settings) -> Schema:
    """The state of the database's schema. Nothing is changed, and no SQLite file is made.

    Raises:
        SettingsError: the address cannot be used.
        DatabaseError: it is out of reach.
    """
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from pipeline.record.migrations.runner import alembic_config

    engine = make_reader(settings)
    shown = engine.url.render_as_string()
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        return Schema("missing", shown)
    try:
        with _sentences(engine), engine.connect() as connection:
            script = ScriptDirectory.from_config(alembic_config(connection))
            found = set(MigrationContext.configure(connection).get_current_heads())
    finally:
        engine.dispose()
    if not found:
        return Schema("empty", shown)
    if not found <= {revision.revision for revision in script.walk_revisions()}:
        return Schema("newer", shown)
    return Schema("newest" if found == set(script.get_heads()) else "older", shown)


@contextmanager
def _sentences(engine: Engine) -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).splitlines()[0].strip() if error.orig else "no reason given"
        raise DatabaseError(
            f"The database at {engine.url.render_as_string()} cannot be opened "
            f"({reason}); start it or mend database_url."
        ) from error


@contextmanager
def _schema_change(connection: Connection) -> Iterator[None]:
    """One transaction during which no other process changes the schema."""
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite:
        # To change a SQLite table, Alembic copies and drops it. With foreign keys on, that would
        # delete the rows that refer to it. The switch has no effect inside a transaction.
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.commit()
    with connection.begin():
        if is_sqlite:
            begin_immediate(connection)
        else:
            hold(connection, "schema")
        yield
        if is_sqlite:
            orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
            if orphans:
                raise DatabaseError(
                    f"The new schema would leave {len(orphans)} rows pointing nowhere, so nothing "
                    "was changed; restore a backup or report this."
                )
