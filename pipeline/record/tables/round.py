"""Rounds of labelling, and the jobs that made them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Enum, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from pipeline.record.tables.base import Base, Words, now

JobStatus = Literal["running", "done", "failed", "cancelled"]


class Round(Base):
    """One batch of tasks handed to annotators in a chosen order."""

    __tablename__ = "round"
    __table_args__ = (UniqueConstraint("ls_project_id", "number"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    ls_project_id: Mapped[int]
    number: Mapped[int]
    settings: Mapped[dict[str, Any]]  # the SelectionSettings it was drawn with
    created_at: Mapped[datetime] = mapped_column(default=now)
    written_at: Mapped[datetime | None]  # when the order was written to Label Studio


class RoundItem(Base):
    """A task in a round. ``rank`` 0 is handed out first."""

    __tablename__ = "round_item"
    __table_args__ = (UniqueConstraint("round_id", "task_id"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("round.id"), index=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), index=True)
    rank: Mapped[int]
    reason: Mapped[str] = mapped_column(String(16))  # "hard" or "random"
    hardness: Mapped[float | None]  # [0, 1]
    stratum: Mapped[int | None]


class Job(Base):
    """One run of a long job. Its number grows with each run, so a run can see that a newer one of
    its kind has taken over."""

    __tablename__ = "job"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32), index=True)
    status: Mapped[JobStatus] = mapped_column(
        Enum("running", "done", "failed", "cancelled", native_enum=False, length=16)
    )
    attempt: Mapped[int] = mapped_column(default=1)  # 2 and more: the run before it crashed
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int | None]
    message: Mapped[str | None] = mapped_column(Words)  # the sentence a user sees
    result: Mapped[dict[str, Any] | None]
    started_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(
        default=now
    )  # last sign of life, see pipeline.record.jobs
    owner: Mapped[str | None] = mapped_column(String(255))  # "host:process id" that runs it
    finished_at: Mapped[datetime | None]
