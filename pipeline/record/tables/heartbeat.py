"""Signs of life of the parts of the loop that nobody calls."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from pipeline.record.tables.base import Base, Key, now


class Heartbeat(Base):
    """The last sign of life of one part, such as the schedule or a worker."""

    __tablename__ = "heartbeat"

    name: Mapped[str] = mapped_column(Key, primary_key=True)
    seen_at: Mapped[datetime] = mapped_column(default=now)
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)  # of a worker: {"queues": [...]}
