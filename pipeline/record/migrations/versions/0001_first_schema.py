"""The first schema.

Revision: 0001, the first. It is longer than 300 lines because it makes every table.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_event")),
        sa.UniqueConstraint("key", name=op.f("uq_event_key")),
    )
    op.create_table(
        "image",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("extension", sa.String(length=8), nullable=False),
        sa.Column(
            "split", sa.Enum("train", "holdout", native_enum=False, length=16), nullable=False
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image")),
        sa.UniqueConstraint("sha256", name=op.f("uq_image_sha256")),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column(
            "status",
            sa.Enum("running", "done", "failed", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
    )
    op.create_index(op.f("ix_job_kind"), "job", ["kind"], unique=False)

    op.create_table(
        "round",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("ls_project_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_round")),
        sa.UniqueConstraint("ls_project_id", "number", name=op.f("uq_round_ls_project_id")),
    )
    op.create_table(
        "snapshot",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot")),
    )
    op.create_index(op.f("ix_snapshot_digest"), "snapshot", ["digest"], unique=False)

    op.create_table(
        "embedding",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("encoder", sa.String(length=64), nullable=False),
        sa.Column("preprocess", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("n_bytes", sa.Integer(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_embedding_image_id_image")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_embedding")),
        sa.UniqueConstraint(
            "image_id", "encoder", "preprocess", name=op.f("uq_embedding_image_id")
        ),
    )
    op.create_index(op.f("ix_embedding_image_id"), "embedding", ["image_id"], unique=False)

    op.create_table(
        "model_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("encoder", sa.String(length=64), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column(
            "status",
            sa.Enum("candidate", "serving", "refused", "retired", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("snapshot_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshot.id"], name=op.f("fk_model_version_snapshot_id_snapshot")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("name", name=op.f("uq_model_version_name")),
    )
    op.create_index(op.f("ix_model_version_status"), "model_version", ["status"], unique=False)
    op.create_index(
        "uq_model_version_serving",
        "model_version",
        ["status"],
        unique=True,
        sqlite_where=sa.text("status = 'serving'"),
        postgresql_where=sa.text("status = 'serving'"),
    )

    op.create_table(
        "snapshot_region",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("snapshot_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("mask", sa.LargeBinary(), nullable=False),
        sa.Column(
            "split", sa.Enum("train", "holdout", native_enum=False, length=16), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_snapshot_region_image_id_image")
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshot.id"], name=op.f("fk_snapshot_region_snapshot_id_snapshot")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_snapshot_region")),
    )
    op.create_index(
        op.f("ix_snapshot_region_snapshot_id"), "snapshot_region", ["snapshot_id"], unique=False
    )

    op.create_table(
        "task",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("ls_project_id", sa.Integer(), nullable=False),
        sa.Column("ls_task_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=True),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "pool", "queued", "accepted", "skipped", "deleted", native_enum=False, length=16
            ),
            nullable=False,
        ),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("hardness", sa.Double(), nullable=True),
        sa.Column("reconciled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_task_image_id_image")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("ls_project_id", "ls_task_id", name=op.f("uq_task_ls_project_id")),
    )
    op.create_index(op.f("ix_task_image_id"), "task", ["image_id"], unique=False)
    op.create_index(op.f("ix_task_ls_task_id"), "task", ["ls_task_id"], unique=False)
    op.create_index(op.f("ix_task_status"), "task", ["status"], unique=False)

    op.create_table(
        "annotation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("ls_annotation_id", sa.Integer(), nullable=False),
        sa.Column("annotator", sa.String(length=255), nullable=True),
        sa.Column("lead_time", sa.Double(), nullable=True),
        sa.Column("was_cancelled", sa.Boolean(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("prompts_only", sa.Boolean(), nullable=False),
        sa.Column("ls_updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_annotation_task_id_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_annotation")),
        sa.UniqueConstraint("ls_annotation_id", name=op.f("uq_annotation_ls_annotation_id")),
    )
    op.create_index(op.f("ix_annotation_task_id"), "annotation", ["task_id"], unique=False)

    op.create_table(
        "gate_decision",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("candidate_id", sa.Integer(), nullable=False),
        sa.Column("serving_id", sa.Integer(), nullable=False),
        sa.Column("promoted", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_id"],
            ["model_version.id"],
            name=op.f("fk_gate_decision_candidate_id_model_version"),
        ),
        sa.ForeignKeyConstraint(
            ["serving_id"],
            ["model_version.id"],
            name=op.f("fk_gate_decision_serving_id_model_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gate_decision")),
    )
    op.create_index(
        op.f("ix_gate_decision_candidate_id"), "gate_decision", ["candidate_id"], unique=False
    )

    op.create_table(
        "interaction",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("region_id", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("prompts", sa.JSON(), nullable=False),
        sa.Column("model_version_id", sa.Integer(), nullable=False),
        sa.Column("probability", sa.LargeBinary(), nullable=False),
        sa.Column("rle", sa.LargeBinary(), nullable=False),
        sa.Column("score", sa.Double(), nullable=False),
        sa.Column("milliseconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["image.id"], name=op.f("fk_interaction_image_id_image")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_interaction_model_version_id_model_version"),
        ),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_interaction_task_id_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_interaction")),
    )
    op.create_index(op.f("ix_interaction_created_at"), "interaction", ["created_at"], unique=False)
    op.create_index(op.f("ix_interaction_region_id"), "interaction", ["region_id"], unique=False)
    op.create_index(op.f("ix_interaction_task_id"), "interaction", ["task_id"], unique=False)

    op.create_table(
        "round_item",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("round_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(length=16), nullable=False),
        sa.Column("hardness", sa.Double(), nullable=True),
        sa.Column("stratum", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["round_id"], ["round.id"], name=op.f("fk_round_item_round_id_round")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_round_item_task_id_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_round_item")),
        sa.UniqueConstraint("round_id", "task_id", name=op.f("uq_round_item_round_id")),
    )
    op.create_index(op.f("ix_round_item_round_id"), "round_item", ["round_id"], unique=False)
    op.create_index(op.f("ix_round_item_task_id"), "round_item", ["task_id"], unique=False)

    op.create_table(
        "region",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("annotation_id", sa.Integer(), nullable=False),
        sa.Column("image_id", sa.Integer(), nullable=False),
        sa.Column("ls_region_id", sa.String(length=64), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("mask", sa.LargeBinary(), nullable=False),
        sa.Column("area", sa.Integer(), nullable=False),
        sa.Column("interaction_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotation_id"], ["annotation.id"], name=op.f("fk_region_annotation_id_annotation")
        ),
        sa.ForeignKeyConstraint(["image_id"], ["image.id"], name=op.f("fk_region_image_id_image")),
        sa.ForeignKeyConstraint(
            ["interaction_id"],
            ["interaction.id"],
            name=op.f("fk_region_interaction_id_interaction"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_region")),
        sa.UniqueConstraint("annotation_id", "ls_region_id", name=op.f("uq_region_annotation_id")),
    )
    op.create_index(op.f("ix_region_annotation_id"), "region", ["annotation_id"], unique=False)
    op.create_index(op.f("ix_region_created_at"), "region", ["created_at"], unique=False)
    op.create_index(op.f("ix_region_image_id"), "region", ["image_id"], unique=False)
    op.create_index(op.f("ix_region_ls_region_id"), "region", ["ls_region_id"], unique=False)

    op.create_table(
        "effort",
        sa.Column("region_id", sa.Integer(), nullable=False),
        sa.Column("clicks", sa.Integer(), nullable=False),
        sa.Column("negative_clicks", sa.Integer(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("first_iou", sa.Double(), nullable=True),
        sa.Column("last_iou", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["region_id"],
            ["region.id"],
            name=op.f("fk_effort_region_id_region"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("region_id", name=op.f("pk_effort")),
    )


def downgrade() -> None:
    op.drop_table("effort")
    op.drop_index(op.f("ix_region_ls_region_id"), table_name="region")
    op.drop_index(op.f("ix_region_image_id"), table_name="region")
    op.drop_index(op.f("ix_region_created_at"), table_name="region")
    op.drop_index(op.f("ix_region_annotation_id"), table_name="region")

    op.drop_table("region")
    op.drop_index(op.f("ix_round_item_task_id"), table_name="round_item")
    op.drop_index(op.f("ix_round_item_round_id"), table_name="round_item")

    op.drop_table("round_item")
    op.drop_index(op.f("ix_interaction_task_id"), table_name="interaction")
    op.drop_index(op.f("ix_interaction_region_id"), table_name="interaction")
    op.drop_index(op.f("ix_interaction_created_at"), table_name="interaction")

    op.drop_table("interaction")
    op.drop_index(op.f("ix_gate_decision_candidate_id"), table_name="gate_decision")

    op.drop_table("gate_decision")
    op.drop_index(op.f("ix_annotation_task_id"), table_name="annotation")

    op.drop_table("annotation")
    op.drop_index(op.f("ix_task_status"), table_name="task")
    op.drop_index(op.f("ix_task_ls_task_id"), table_name="task")
    op.drop_index(op.f("ix_task_image_id"), table_name="task")

    op.drop_table("task")
    op.drop_index(op.f("ix_snapshot_region_snapshot_id"), table_name="snapshot_region")

    op.drop_table("snapshot_region")
    op.drop_index(
        "uq_model_version_serving",
        table_name="model_version",
        sqlite_where=sa.text("status = 'serving'"),
        postgresql_where=sa.text("status = 'serving'"),
    )
    op.drop_index(op.f("ix_model_version_status"), table_name="model_version")

    op.drop_table("model_version")
    op.drop_index(op.f("ix_embedding_image_id"), table_name="embedding")

    op.drop_table("embedding")
    op.drop_index(op.f("ix_snapshot_digest"), table_name="snapshot")

    op.drop_table("snapshot")
    op.drop_table("round")
    op.drop_index(op.f("ix_job_kind"), table_name="job")

    op.drop_table("job")
    op.drop_table("image")
    op.drop_table("event")
