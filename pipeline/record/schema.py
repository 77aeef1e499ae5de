"""The schema of the database: bringing it to the newest revision, and checking it.

``maskloop up``, ``maskloop upgrade``, the workers and the backend call ``upgrade`` when they start.
Every other command calls ``check``, which changes nothing: a command that only reads must never
migrate a production database as a side effect.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from pipeline.errors import DatabaseError
from pipeline.record.engine import begin_immediate, hold, make_engine, make_reader
from pipeline.record.migrations.copying import copy_to_file
from pipeline.record.tables import now
from pipeline.settings import Settings

log = logging.getLogger(__name__)

COPIES = "backups"  # in the home folder
MOST_COPIES = 3
DAMAGED = ("malformed", "file is not a database")  # SQLite's words for a destroyed page


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


def upgrade(settings: Settings, *, copy: bool = True) -> None:
    """Bring the database to the newest schema, or make the schema when it is empty.

    It is safe to call this often. All steps are one transaction: a failure changes nothing.

    Args:
        copy: keep a copy of a database of an older maskloop in the folder ``COPIES`` of the home
            folder, before it is changed.

    Raises:
        SettingsError: the address cannot be used.
        DatabaseError: out of reach, not maskloop's, or written by a newer maskloop.
    """
    from pipeline.record.migrations.runner import upgrade_connection  # Alembic imports slowly.

    engine = make_engine(settings)
    try:
        with _sentences(engine), engine.connect() as connection, _schema_change(connection):
            if copy and (revision := _older_revision(connection)) is not None:
                _keep_copy(settings, revision)
            upgrade_connection(connection)
    finally:
        engine.dispose()


def _older_revision(connection: Connection) -> str | None:
    """The revision of a database of an older maskloop; None: it is empty, newest or newer."""
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from pipeline.record.migrations.runner import alembic_config

    script = ScriptDirectory.from_config(alembic_config(connection))
    found = MigrationContext.configure(connection).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    return found if found in known - set(script.get_heads()) else None


def _keep_copy(settings: Settings, revision: str) -> None:
    """Copy the database beside it before it is changed; only the newest ``MOST_COPIES`` stay."""
    folder = settings.home.resolve() / COPIES
    path = folder / f"record-{revision}-{now():%Y%m%d-%H%M%S}.sqlite3"
    reader = make_reader(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        copy_to_file(reader, path)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        path.unlink(missing_ok=True)
        raise DatabaseError(
            f"The database must be brought up to date, but it cannot be copied to {path} before "
            f"({error}), so nothing was changed; make room there."
        ) from error
    finally:
        reader.dispose()
    log.info("A copy of the database, as it was before the upgrade, is %s.", path)
    for old in sorted(folder.glob("record-*.sqlite3"), key=lambda each: each.stat().st_mtime)[
        :-MOST_COPIES
    ]:
        old.unlink(missing_ok=True)


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
        if any(words in reason for words in DAMAGED):
            raise DatabaseError(
                f"The database at {engine.url.render_as_string()} cannot be opened ({reason}): "
                "it is damaged, or another program's. Move it aside and put a backup in its "
                "place: `maskloop restore FILE` into a new home folder, or the newest copy in the "
                f"folder {COPIES}."
            ) from error
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
