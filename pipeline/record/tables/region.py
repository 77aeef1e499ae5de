"""Accepted masks, and the effort that each cost the annotator."""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import ForeignKey, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, validates

from pipeline.record.tables.base import Base, Key, Words, now


class Region(Base):
    """One accepted mask region. ``mask`` is a 1-bit PNG at the image's upright size."""

    __tablename__ = "region"
    __table_args__ = (UniqueConstraint("annotation_id", "ls_region_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    annotation_id: Mapped[int] = mapped_column(ForeignKey("annotation.id"), index=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), index=True)
    ls_region_id: Mapped[str] = mapped_column(Key, index=True)
    label: Mapped[str] = mapped_column(Words)
    mask: Mapped[bytes] = mapped_column(LargeBinary)
    mask_sha256: Mapped[str] = mapped_column(String(64))  # set along with ``mask``
    area: Mapped[int]  # pixels
    interaction_id: Mapped[int | None] = mapped_column(ForeignKey("interaction.id"))
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)

    @validates("mask")
    def _digest(self, _name: str, mask: bytes) -> bytes:
        self.mask_sha256 = hashlib.sha256(mask).hexdigest()
        return mask


class Effort(Base):
    """The effort of one accepted region, and how close the model's first and last answers were."""

    __tablename__ = "effort"

    region_id: Mapped[int] = mapped_column(
        ForeignKey("region.id", ondelete="CASCADE"), primary_key=True
    )
    clicks: Mapped[int]  # all prompts of the region, boxes included
    negative_clicks: Mapped[int]
    seconds: Mapped[float | None]  # from the first prompt to the last reply
    first_iou: Mapped[float | None]  # IoU of the first suggestion with the accepted mask
    last_iou: Mapped[float | None]  # IoU of the last one; below 1: edited by hand after it
