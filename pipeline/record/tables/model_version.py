"""Model versions, the snapshots they learned from, and how the gate judged them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Enum, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from pipeline.record.tables.base import Base, Words, now
from pipeline.record.tables.image import Split

VersionStatus = Literal["candidate", "serving", "refused", "retired"]


class ModelVersion(Base):
    """One set of weights in the registry. At most one row is ``serving``."""

    __tablename__ = "model_version"
    __table_args__ = (
        # The database itself refuses a second serving version, even when two processes race.
        Index(
            "uq_model_version_serving",
            "status",
            unique=True,
            sqlite_where=text("status = 'serving'"),
            postgresql_where=text("status = 'serving'"),
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    encoder: Mapped[str] = mapped_column(String(64))  # fingerprint
    sha256: Mapped[str] = mapped_column(String(64))  # of the checkpoint in the store
    key: Mapped[str] = mapped_column(String(255))  # path inside the store
    status: Mapped[VersionStatus] = mapped_column(
        Enum("candidate", "serving", "refused", "retired", native_enum=False, length=16), index=True
    )
    snapshot_id: Mapped[int | None] = mapped_column(ForeignKey("snapshot.id"))
    # Only for a version made from an external file: its address, and the checksum of that file.
    source: Mapped[str | None] = mapped_column(Words)
    source_sha256: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=now)
    promoted_at: Mapped[datetime | None]


class GateDecision(Base):
    """One comparison of a candidate with the serving version, kept whether it passed or not."""

    __tablename__ = "gate_decision"

    id: Mapped[int] = mapped_column(primary_key=True)
    candidate_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"), index=True)
    serving_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    promoted: Mapped[bool]
    reason: Mapped[str] = mapped_column(Words)
    metrics: Mapped[dict[str, Any]]  # {"candidate": {...}, "serving": {...}, "bootstrap": {...}}
    created_at: Mapped[datetime] = mapped_column(default=now)


class Snapshot(Base):
    """A frozen set of the accepted regions that a fine-tune learned from."""

    __tablename__ = "snapshot"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), index=True)  # of the members and their masks
    created_at: Mapped[datetime] = mapped_column(default=now)


class SnapshotRegion(Base):
    """A member of a snapshot. A region edited or deleted later does not change the snapshot,
    so the mask is kept here too."""

    __tablename__ = "snapshot_region"

    id: Mapped[int] = mapped_column(primary_key=True)
    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshot.id"), index=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    label: Mapped[str] = mapped_column(Words)
    mask: Mapped[bytes]  # 1-bit PNG
    split: Mapped[Split] = mapped_column(Enum("train", "holdout", native_enum=False, length=16))
