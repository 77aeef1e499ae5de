"""Rows of annotations, and the task status that follows from them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from pipeline.record.tables import Annotation, Region, Round, RoundItem, Task, now
from pipeline.record.tables.task import TaskStatus


def by_ls_id(session: Session, ls_annotation_id: int) -> Annotation | None:
    """The row of an annotation by Label Studio's number, as the database has it now."""
    known = select(Annotation).where(Annotation.ls_annotation_id == ls_annotation_id)
    return session.scalars(known.execution_options(populate_existing=True)).one_or_none()


def put(session: Session, ls_annotation_id: int, task_id: int) -> Annotation:
    """The row of an annotation, or a new row that is not flushed yet."""
    row = by_ls_id(session, ls_annotation_id)
    if row is None:
        row = Annotation(ls_annotation_id=ls_annotation_id, task_id=task_id)
        session.add(row)
    return row


def of_task(session: Session, task_id: int, *, living: bool = False) -> set[int]:
    """Label Studio's numbers of a task's annotations, or of those that are not deleted."""
    statement = select(Annotation.ls_annotation_id).where(Annotation.task_id == task_id)
    if living:
        statement = statement.where(Annotation.deleted.is_(False))
    return set(session.scalars(statement))


def remove(session: Session, ls_annotation_ids: Collection[int]) -> int:
    """Note that annotations were deleted in Label Studio, and delete their regions.

    Returns:
        How many of them were known and not deleted before.
    """
    rows = session.scalars(
        select(Annotation).where(
            Annotation.ls_annotation_id.in_(ls_annotation_ids), Annotation.deleted.is_(False)
        )
    ).all()
    for row in rows:
        row.deleted = True
        row.seen_at = now()
        session.execute(delete(Region).where(Region.annotation_id == row.id))
    session.flush()
    for task_id in sorted({row.task_id for row in rows}):  # In one order, or two could deadlock.
        set_status(session, session.get_one(Task, task_id))
    return len(rows)


def remove_tasks(session: Session, tasks: Collection[Task]) -> int:
    """Note that tasks were deleted in Label Studio, together with their annotations.

    Returns:
        How many of them were not deleted before.
    """
    gone = [task for task in tasks if task.status != "deleted"]
    for task in gone:
        remove(session, of_task(session, task.id))
        task.status = "deleted"
    session.flush()
    return len(gone)


def set_status(session: Session, task: Task) -> None:
    """Set the status of a task from its annotations; a deleted task stays deleted.

    Others that do this for the same task wait until this transaction ends. Otherwise each of two
    could miss the other's annotation, and the last one to write would be wrong.
    """
    session.flush()
    session.refresh(task, ["status"], with_for_update=True)
    if task.status != "deleted":
        task.status = _status(session, task)


def _status(session: Session, task: Task) -> TaskStatus:
    live = session.execute(
        select(Annotation.was_cancelled, Annotation.prompts_only).where(
            Annotation.task_id == task.id, Annotation.deleted.is_(False)
        )
    ).all()
    if any(not cancelled and not prompts_only for cancelled, prompts_only in live):
        return "accepted"
    if any(cancelled for cancelled, _ in live):
        return "skipped"
    newest = select(func.max(Round.id)).where(Round.ls_project_id == task.ls_project_id)
    in_round = select(RoundItem.id).where(
        RoundItem.task_id == task.id, RoundItem.round_id == newest.scalar_subquery()
    )
    return "pool" if session.scalar(in_round) is None else "queued"


def living_by_task(session: Session, project_id: int) -> dict[int, int]:
    """How many annotations that are not deleted each task of a project has, by the row's id; tasks
    without any are left out."""
    rows = session.execute(
        select(Annotation.task_id, func.count())
        .join(Task, Task.id == Annotation.task_id)
        .where(Task.ls_project_id == project_id, Annotation.deleted.is_(False))
        .group_by(Annotation.task_id)
    )
    return {task_id: count for task_id, count in rows}


def count_without_masks(session: Session, project_id: int) -> int:
    """How many annotations of a project hold prompts but no mask, deleted ones not counted."""
    statement = (
        select(func.count(Annotation.id))
        .join(Task)
        .where(Task.ls_project_id == project_id)
        .where(Annotation.prompts_only, Annotation.deleted.is_(False))
    )
    return session.scalar(statement) or 0


def tasks_without_masks(session: Session, project_id: int) -> list[int]:
    """Label Studio's numbers of the tasks with an annotation that holds prompts but no mask.

    The newest annotation comes first. Deleted and skipped annotations do not count.
    """
    bare = select(Task.ls_task_id).join(Annotation, Annotation.task_id == Task.id)
    bare = bare.where(
        Task.ls_project_id == project_id,
        Annotation.prompts_only,
        ~Annotation.was_cancelled,
        ~Annotation.deleted,
    )
    return list(session.scalars(bare.order_by(Annotation.id.desc())))
