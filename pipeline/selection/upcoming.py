"""Which tasks an annotator will open next: the way Label Studio hands them out from here."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.record.tables import Round, RoundItem, Task

WAITING = ("pool", "queued")


def following(session: Session, task: Task, count: int) -> list[Task]:
    """The ``count`` tasks after one: those behind it in the newest round, then, as in the data
    manager, those with larger numbers. Only tasks without an annotation, whose image can be had.
    """
    usable = (
        Task.ls_project_id == task.ls_project_id,
        Task.status.in_(WAITING),
        Task.problem.is_(None),
        Task.id != task.id,
    )
    found: list[Task] = []
    newest = (
        select(RoundItem.round_id, RoundItem.rank)
        .join(Round, Round.id == RoundItem.round_id)
        .where(RoundItem.task_id == task.id, Round.written_at.is_not(None))
        .order_by(Round.id.desc())
        .limit(1)
    )
    place = session.execute(newest).first()
    if place is not None:
        later = (
            select(Task)
            .join(RoundItem, RoundItem.task_id == Task.id)
            .where(*usable, RoundItem.round_id == place.round_id, RoundItem.rank > place.rank)
            .order_by(RoundItem.rank)
            .limit(count)
        )
        found += session.scalars(later)
    if len(found) < count:
        known = [task.id for task in found]
        after = (
            select(Task)
            .where(*usable, Task.ls_task_id > task.ls_task_id, Task.id.not_in(known))
            .order_by(Task.ls_task_id)
            .limit(count - len(found))
        )
        found += session.scalars(after)
    return found
