"""The source of a model version's weights, and the checksum of that file.

Revision: 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("model_version") as table:
        table.add_column(sa.Column("source", sa.String(length=500), nullable=True))
        table.add_column(sa.Column("source_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("model_version") as table:
        table.drop_column("source_sha256")
        table.drop_column("source")
