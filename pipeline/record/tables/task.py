"""Label Studio's tasks and annotations as we last saw them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Enum, ForeignKey, String, UniqueConstraint, and_
from sqlalchemy.orm import Mapped, mapped_column

from pipeline.record.tables.base import Base, Key, Words, now

TaskStatus = Literal["pool", "queued", "accepted", "skipped", "deleted"]


class Task(Base):
    """One task of one project; ``problem`` is a sentence that says why its image cannot be used."""

    __tablename__ = "task"
    __table_args__ = (UniqueConstraint("ls_project_id", "ls_task_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    ls_project_id: Mapped[int]
    ls_task_id: Mapped[int] = mapped_column(index=True)
    image_id: Mapped[int | None] = mapped_column(ForeignKey("image.id"), index=True)
    url: Mapped[str] = mapped_column(Words)  # the value of the task's image field
    status: Mapped[TaskStatus] = mapped_column(
        Enum("pool", "queued", "accepted", "skipped", "deleted", native_enum=False, length=16),
        default="pool",
        index=True,
    )
    problem: Mapped[str | None] = mapped_column(Words)
    attempts: Mapped[int] = mapped_column(default=0)  # at its image, which failed so often in a row
    try_at: Mapped[datetime | None]  # not before this time; None: when there is an occasion
    hardness: Mapped[float | None]  # [0, 1], as the last selection ranked it
    # Label Studio's update time of the task at the last reconcile pass that compared annotations.
    reconciled_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Annotation(Base):
    """One annotation; its mask regions are rows of ``region``."""

    __tablename__ = "annotation"

    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), index=True)
    ls_annotation_id: Mapped[int] = mapped_column(unique=True)
    annotator: Mapped[str | None] = mapped_column(Words)
    lead_time: Mapped[float | None]  # seconds
    was_cancelled: Mapped[bool] = mapped_column(default=False)
    deleted: Mapped[bool] = mapped_column(default=False)
    prompts_only: Mapped[bool] = mapped_column(default=False)  # submitted without the tick
    ls_updated_at: Mapped[datetime]
    seen_at: Mapped[datetime] = mapped_column(default=now)  # when we last saw it change

    @classmethod
    def stands(cls) -> ColumnElement[bool]:
        """The SQL condition that its masks count: it is not skipped, not deleted, and holds more
        than prompts."""
        return and_(~cls.was_cancelled, ~cls.deleted, ~cls.prompts_only)


class Event(Base):
    """One webhook delivery. It is written before it is answered, and is handled later, once."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(Key, unique=True)  # action, ids and update time
    action: Mapped[str] = mapped_column(String(64))
    payload: Mapped[dict[str, Any]]
    received_at: Mapped[datetime] = mapped_column(default=now)
    done_at: Mapped[datetime | None]
    problem: Mapped[str | None] = mapped_column(Words)
    attempts: Mapped[int] = mapped_column(default=0)  # that failed
    try_at: Mapped[datetime | None]  # not before this time
