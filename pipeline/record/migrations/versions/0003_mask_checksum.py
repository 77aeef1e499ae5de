"""The checksum of each accepted mask, so that masks can be compared without reading them.

Revision: 0003, after 0002.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

PORTION = 500  # masks in memory at a time


def upgrade() -> None:
    with op.batch_alter_table("region") as table:
        table.add_column(sa.Column("mask_sha256", sa.String(length=64), nullable=True))
    region = sa.table(
        "region", sa.column("id"), sa.column("mask", sa.LargeBinary()), sa.column("mask_sha256")
    )
    connection = op.get_bind()
    last = 0
    while rows := connection.execute(
        sa.select(region.c.id, region.c.mask)
        .where(region.c.id > last)
        .order_by(region.c.id)
        .limit(PORTION)
    ).all():
        for number, mask in rows:
            digest = hashlib.sha256(mask).hexdigest()
            connection.execute(
                sa.update(region).where(region.c.id == number).values(mask_sha256=digest)
            )
        last = rows[-1][0]
    with op.batch_alter_table("region") as table:
        table.alter_column("mask_sha256", existing_type=sa.String(length=64), nullable=False)


def downgrade() -> None:
    with op.batch_alter_table("region") as table:
        table.drop_column("mask_sha256")
