"""Signs of life, and columns that hold every text that Label Studio accepts.

Revision: 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Table, column, length before, length now (None: any), whether it may be empty.
COLUMNS = (
    ("region", "ls_region_id", 64, 255, False),
    ("region", "label", 255, None, False),
    ("interaction", "region_id", 64, 255, False),
    ("interaction", "label", 255, None, False),
    ("annotation", "annotator", 255, None, True),
    ("snapshot_region", "label", 255, None, False),
    ("model_version", "source", 500, None, True),
)


def upgrade() -> None:
    op.create_table(
        "heartbeat",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_heartbeat")),
    )
    for table, column, before, length, empty in COLUMNS:
        _change(table, column, before, length, empty=empty)


def downgrade() -> None:
    for table, column, before, length, empty in COLUMNS:
        _change(table, column, length, before, empty=empty)
    op.drop_table("heartbeat")


def _change(
    table: str, column: str, before: int | None, length: int | None, *, empty: bool
) -> None:
    if op.get_bind().dialect.name == "sqlite":
        return  # SQLite ignores the length of a text, and would copy whole tables with all masks.
    op.alter_column(
        table, column, existing_type=_text(before), type_=_text(length), existing_nullable=empty
    )


def _text(length: int | None) -> sa.types.TypeEngine[str]:
    return sa.Text() if length is None else sa.String(length=length)
