"""Images, identified by the hash of their bytes, and their embeddings."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from sqlalchemy import Enum, ForeignKey, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from pipeline.record.tables.base import Base, now

Split = Literal["train", "holdout"]


class Image(Base):
    """One image, even if several tasks show it. ``split`` is set once, from the hash, and never
    changes."""

    __tablename__ = "image"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    width: Mapped[int]  # pixels, upright
    height: Mapped[int]
    extension: Mapped[str] = mapped_column(String(8))  # of the file in the store, without a dot
    split: Mapped[Split] = mapped_column(Enum("train", "holdout", native_enum=False, length=16))
    created_at: Mapped[datetime] = mapped_column(default=now)


class Embedding(Base):
    """One row per embedding in the store, with its pooled vector for selection."""

    __tablename__ = "embedding"
    __table_args__ = (UniqueConstraint("image_id", "encoder", "preprocess"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    image_id: Mapped[int] = mapped_column(ForeignKey("image.id"), index=True)
    encoder: Mapped[str] = mapped_column(String(64))  # fingerprint of the encoder's weights
    preprocess: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(255))  # path inside the store
    n_bytes: Mapped[int]
    vector: Mapped[bytes] = mapped_column(LargeBinary)  # float32[C], L2-normalised mean feature
    created_at: Mapped[datetime] = mapped_column(default=now)
