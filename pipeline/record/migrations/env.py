"""Alembic's entry point. ``pipeline.record.schema.upgrade`` hands it a connection; the ``alembic``
command line does not, and then works on the database of the settings."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, String
from sqlalchemy.types import TypeEngine

from pipeline.record.engine import make_engine
from pipeline.record.tables import Base
from pipeline.record.tables.base import Key, UtcDateTime, Words
from pipeline.settings import load_settings

PLAIN: dict[type, str] = {
    UtcDateTime: "sa.DateTime(timezone=True)",
    Key: "sa.String(length=255)",
    Words: "sa.Text()",
}


def render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write our own column types as the plain types that the database sees.

    So a revision does not depend on a class of ours that may change later.
    """
    return next((plain for kind, plain in PLAIN.items() if isinstance(item, kind)), False)


def differs(
    migration: MigrationContext,
    _inspected: Any,
    _column: Any,
    found: TypeEngine[Any],
    wanted: TypeEngine[Any],
) -> bool | None:
    """Whether a column must change its type; None: Alembic decides. SQLite ignores lengths."""
    texts = isinstance(found, String) and isinstance(wanted, String | Key | Words)
    return False if texts and migration.dialect.name == "sqlite" else None


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite changes a table by copying it
        render_item=render_item,
        compare_type=differs,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with make_engine(load_settings()).connect() as opened:
        run(opened)
        opened.commit()
