"""Runs Alembic on a connection that the caller holds, and refuses databases it would damage."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from pipeline.errors import DatabaseError
from pipeline.record.tables import Base

FOLDER = Path(__file__).parent


def alembic_config(connection: Connection) -> Config:
    """Alembic's configuration for work on ``connection``, inside the caller's transaction."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade_connection(connection: Connection) -> None:
    """Bring the database behind ``connection`` to the newest revision.

    Raises:
        DatabaseError: it holds tables with names of ours but no revision, or an unknown revision.
    """
    config = alembic_config(connection)
    script = ScriptDirectory.from_config(config)
    heads = MigrationContext.configure(connection).get_current_heads()
    known = {revision.revision for revision in script.walk_revisions()}
    unknown = [head for head in heads if head not in known]
    if unknown:
        raise DatabaseError(
            f"The database is at revision {unknown[0]}, which this maskloop does not know, so it "
            "was left alone; install the maskloop that wrote it, or use another database."
        )
    ours = sorted(set(inspect(connection).get_table_names()) & set(Base.metadata.tables))
    if ours and not heads:
        raise DatabaseError(
            f"The database already has tables that maskloop did not make ({', '.join(ours)}), so "
            "it was left alone; give maskloop a database of its own."
        )
    if set(heads) != set(script.get_heads()):
        command.upgrade(config, "head")
