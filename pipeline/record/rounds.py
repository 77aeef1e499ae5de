"""Rows of rounds and of the tasks in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from pipeline.record.tables import Round, RoundItem, Task, now


def newest(session: Session, project_id: int | None = None) -> Round | None:
    """The newest round of a project, or of all projects for None, if there is one."""
    statement = select(Round)
    if project_id is not None:
        statement = statement.where(Round.ls_project_id == project_id)
    return session.scalars(statement.order_by(Round.id.desc()).limit(1)).first()


def unwritten_since(session: Session, project_id: int, moment: datetime) -> Round | None:
    """The newest round chosen after ``moment``, if Label Studio has not received it."""
    statement = select(Round).where(Round.ls_project_id == project_id, Round.created_at > moment)
    found = session.scalars(statement.order_by(Round.number.desc()).limit(1)).first()
    return found if found is not None and found.written_at is None else None


def next_number(session: Session, project_id: int) -> int:
    """The number of the round that comes next; the first is 0."""
    last = session.scalar(select(func.max(Round.number)).where(Round.ls_project_id == project_id))
    return 0 if last is None else last + 1


def drop_unwritten(session: Session, project_id: int) -> None:
    """Delete the rounds of a project that Label Studio never received."""
    rounds = select(Round.id).where(Round.ls_project_id == project_id, Round.written_at.is_(None))
    for table, column in ((RoundItem, RoundItem.round_id), (Round, Round.id)):
        gone = delete(table).where(column.in_(rounds))
        session.execute(gone.execution_options(synchronize_session=False))


def ranked_tasks(session: Session, round_id: int) -> list[int]:
    """Label Studio's numbers of a round's tasks, in the order they are handed out."""
    statement = (
        select(Task.ls_task_id)
        .join(RoundItem, RoundItem.task_id == Task.id)
        .where(RoundItem.round_id == round_id)
        .order_by(RoundItem.rank)
    )
    return list(session.scalars(statement))


def ranks(session: Session, round_id: int) -> dict[int, int]:
    """Rank of each of a round's tasks, by the id of the task's row."""
    items = session.scalars(select(RoundItem).where(RoundItem.round_id == round_id))
    return {item.task_id: item.rank for item in items}


def places(session: Session, task_ids: Sequence[int]) -> dict[int, tuple[int, int, str]]:
    """(round number, rank, reason) of the latest round that holds each task, by row id."""
    rows = session.execute(
        select(RoundItem.task_id, Round.number, RoundItem.rank, RoundItem.reason)
        .join(Round, Round.id == RoundItem.round_id)
        .where(RoundItem.task_id.in_(task_ids))
        .order_by(Round.number)
    )
    return {task_id: (number, rank, reason) for task_id, number, rank, reason in rows}


def note_written(session: Session, round_id: int) -> None:
    """Note that the order of a round was written to Label Studio."""
    session.execute(update(Round).where(Round.id == round_id).values(written_at=now()))


def progress(session: Session, round_id: int) -> tuple[int, int]:
    """How many tasks a round has, and how many of them are accepted."""
    items = (
        select(Task.status, func.count())
        .join(RoundItem, RoundItem.task_id == Task.id)
        .where(RoundItem.round_id == round_id)
        .group_by(Task.status)
    )
    counts = {status: count for status, count in session.execute(items)}
    return sum(counts.values()), counts.get("accepted", 0)
