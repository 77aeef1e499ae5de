"""How often a job, an event or an image was tried, and when it is tried again.

Revision: 0005, after 0004.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Table, name of the counter, its value in rows that exist.
COUNTERS = (("job", "attempt", "1"), ("task", "attempts", "0"), ("event", "attempts", "0"))
TIMED = ("task", "event")


def upgrade() -> None:
    for table, name, value in COUNTERS:
        # A column with a default is added without copying the table.
        op.add_column(table, sa.Column(name, sa.Integer(), nullable=False, server_default=value))
    for table in TIMED:
        op.add_column(table, sa.Column("try_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    for table in TIMED:
        with op.batch_alter_table(table) as batch:
            batch.drop_column("try_at")
    for table, name, _ in COUNTERS:
        with op.batch_alter_table(table) as batch:
            batch.drop_column(name)
