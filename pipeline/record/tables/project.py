"""The projects of Label Studio that maskloop serves."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from pipeline.record.tables.base import Base, Words, now


class Project(Base):
    """One project that was connected. While it is paused, nothing runs for it by itself."""

    __tablename__ = "project"

    id: Mapped[int] = mapped_column(primary_key=True)
    ls_project_id: Mapped[int] = mapped_column(unique=True)
    title: Mapped[str] = mapped_column(Words)
    paused: Mapped[bool] = mapped_column(default=False)
    connected_at: Mapped[datetime] = mapped_column(default=now)
