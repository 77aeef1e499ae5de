"""Alembic's entry point. ``pipeline.record.schema.upgrade`` hands it a connection; the ``alembic``
command line does not, and then works on the database of the settings."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection

from pipeline.record.engine import make_engine
from pipeline.record.tables import Base
from pipeline.record.tables.base import UtcDateTime
from pipeline.settings import load_settings


def render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Write our own column type as the plain type that the database sees.

    So a revision does not depend on a class of ours that may change later.
    """
    return "sa.DateTime(timezone=True)" if isinstance(item, UtcDateTime) else False


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite changes a table by copying it
        render_item=render_item,
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
