"""The click log: each reply of the model with the prompts it answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from pipeline.record.tables.base import Base, Key, Words, now


class Interaction(Base):
    """One reply to ``/predict``. A later request finds its previous mask in these rows."""

    __tablename__ = "interaction"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), index=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"))
    region_id: Mapped[str] = mapped_column(Key, index=True)  # id of the region we sent
    label: Mapped[str] = mapped_column(Words)
    # Marks as ``backend.request.prompts.Mark.to_json`` writes them: [{"id", "kind": "click", "box",
    # "polygon", "scribble" or "text", "positive", "x", "y", ...}], in image pixels
    prompts: Mapped[list[Any]]
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    probability: Mapped[bytes] = mapped_column(LargeBinary)  # PNG, uint8 = 255 * probability, small
    rle: Mapped[bytes] = mapped_column(LargeBinary)  # the brush RLE that was sent
    score: Mapped[float]
    milliseconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
