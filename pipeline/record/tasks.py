"""Rows of Label Studio's tasks: the image that each shows, and the state of its labelling."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline.errors import UnknownRecordError
from pipeline.record.retries import is_due, next_try
from pipeline.record.tables import Embedding, ModelVersion, Round, RoundItem, Task, now
from pipeline.record.tables.task import TaskStatus

# Not labelled yet. A new round may also choose the tasks that an earlier round left unlabelled:
# Label Studio follows the newest round only, and would hand out those tasks last.
WAITING: tuple[TaskStatus, ...] = ("pool", "queued")
# When several tasks show one image, the first status in this order is the status of the image.
PROGRESS_ORDER: tuple[TaskStatus, ...] = ("accepted", "queued", "skipped", "pool")


def get(session: Session, task_id: int) -> Task:
    """The task row with this id.

    Raises:
        UnknownRecordError: there is none.
    """
    task = session.get(Task, task_id)
    if task is None:
        raise UnknownRecordError(f"There is no task row {task_id}; reconcile and try again.")
    return task


def find(session: Session, project_id: int, ls_task_id: int) -> Task | None:
    """The row of a project's task by Label Studio's number, if there is one."""
    known = select(Task).where(Task.ls_project_id == project_id, Task.ls_task_id == ls_task_id)
    return session.scalars(known).one_or_none()


def put(session: Session, project_id: int, ls_task_id: int, url: str) -> Task:
    """The row of a task; a new row is made when there is none.

    A task whose address changed now shows another image, so the old image is removed from the row.
    """
    task = find(session, project_id, ls_task_id)
    if task is None:
        task = Task(ls_project_id=project_id, ls_task_id=ls_task_id, url=url)
        try:
            with session.begin_nested():
                session.add(task)
        except IntegrityError:  # Another process wrote it since we looked.
            known = select(Task).where(
                Task.ls_project_id == project_id, Task.ls_task_id == ls_task_id
            )
            task = session.scalars(known).one()
    if task.url != url:
        # All of these columns are written even if they were empty when we read them: another
        # process may have written the image of the old address since.
        forget = {"url": url, "image_id": None, "problem": None, "attempts": 0, "try_at": None}
        session.execute(update(Task).where(Task.id == task.id).values(forget))
        session.refresh(task)
    return task


def note_image(session: Session, task: Task, image_id: int) -> None:
    """Write which image was found at the address that ``task`` shows, if it still shows it."""
    values = {"image_id": image_id, "problem": None, "attempts": 0, "try_at": None}
    _note(session, task, values)


def note_problem(session: Session, task: Task, problem: str) -> None:
    """Write why no image was found at the address that ``task`` shows, if it still shows it.

    An annotator may click again and again meanwhile: attempts before the next try do not count.
    """
    values: dict[str, Any] = {"problem": problem}
    if task.try_at is None or task.try_at <= now():
        attempts = task.attempts + 1
        values |= {"attempts": attempts, "try_at": next_try(attempts)}
    _note(session, task, values)


def _note(session: Session, task: Task, values: dict[str, Any]) -> None:
    same = Task.id == task.id, Task.url == task.url
    session.execute(update(Task).where(*same).values(values))


def of_project(session: Session, project_id: int) -> dict[int, Task]:
    """All rows of a project, deleted tasks included, by Label Studio's number."""
    rows = session.scalars(select(Task).where(Task.ls_project_id == project_id))
    return {row.ls_task_id: row for row in rows}


def living(session: Session, project_id: int) -> dict[int, int]:
    """Ids of the rows of a project's tasks that are not deleted, by Label Studio's number."""
    statement = select(Task.ls_task_id, Task.id).where(
        Task.ls_project_id == project_id, Task.status != "deleted"
    )
    return {ls_task_id: task_id for ls_task_id, task_id in session.execute(statement)}


def by_ls_ids(session: Session, ls_task_ids: Collection[int]) -> list[Task]:
    """The rows of these tasks by Label Studio's numbers, whatever their project."""
    return list(session.scalars(select(Task).where(Task.ls_task_id.in_(ls_task_ids))))


def to_encode(session: Session, project_id: int | None = None, *, again: bool = False) -> list[int]:
    """Ids of the rows whose image the serving version's encoder has not seen, oldest first.

    Args:
        project_id: only of this project.
        again: also those whose image could not be used at the last attempt, if it is time to try
            it again.
    """
    statement = select(Task.id).where(Task.url != "", Task.status != "deleted")
    statement = statement.where(is_due(Task) if again else Task.problem.is_(None))
    serving = select(ModelVersion.encoder).where(ModelVersion.status == "serving")
    encoder = session.scalars(serving).first()
    if encoder is not None:
        encoded = select(Embedding.image_id).where(Embedding.encoder == encoder)
        statement = statement.where(Task.image_id.is_(None) | Task.image_id.not_in(encoded))
    if project_id is not None:
        statement = statement.where(Task.ls_project_id == project_id)
    return list(session.scalars(statement.order_by(Task.id)))


def following(session: Session, task: Task, count: int) -> list[Task]:
    """The ``count`` tasks that an annotator opens after this one.

    These are the later tasks of its newest round and then, as in the data manager, the tasks with
    larger numbers. Only tasks without an annotation whose image can be used are included.
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
        known = [each.id for each in found]
        after = (
            select(Task)
            .where(*usable, Task.ls_task_id > task.ls_task_id, Task.id.not_in(known))
            .order_by(Task.ls_task_id)
            .limit(count - len(found))
        )
        found += session.scalars(after)
    return found


def unlabelled(session: Session, project_id: int) -> set[int]:
    """Ids of the rows of a project that nobody has labelled yet."""
    waiting = select(Task.id).where(Task.ls_project_id == project_id, Task.status.in_(WAITING))
    return set(session.scalars(waiting))


def any_queued(session: Session, project_id: int) -> bool:
    """Whether a task of the project's newest round is still to be labelled."""
    queued = select(Task.id).where(Task.ls_project_id == project_id, Task.status == "queued")
    return session.scalars(queued.limit(1)).first() is not None


def any_encoded_in_pool(session: Session, project_id: int) -> bool:
    """Whether a task of the project is in no round and has an encoded image."""
    encoded = select(Embedding.id).where(Embedding.image_id == Task.image_id).exists()
    pool = select(Task.id).where(Task.ls_project_id == project_id, Task.status == "pool", encoded)
    return session.scalars(pool.limit(1)).first() is not None


def queue(session: Session, project_id: int, task_ids: Sequence[int]) -> None:
    """Make these the queued tasks of a project; tasks that were queued return to the pool."""
    left = update(Task).where(Task.ls_project_id == project_id, Task.status == "queued")
    session.execute(left.values(status="pool"))
    # The condition is part of the statement: a task that was labelled a moment ago stays so.
    waiting = Task.id.in_(task_ids), Task.status.in_(WAITING)
    session.execute(update(Task).where(*waiting).values(status="queued"))


def note_hardness(session: Session, hardness: Mapping[int, float]) -> None:
    """Write how hard each task's image is, in [0, 1], by the id of its row."""
    if hardness:
        rows = [{"id": task_id, "hardness": value} for task_id, value in hardness.items()]
        session.execute(update(Task), rows)


def speaking_for(session: Session, image_ids: Sequence[int]) -> dict[int, Task]:
    """For each image, the task whose status comes first in ``PROGRESS_ORDER``.

    Deleted tasks are left out.
    """
    found: dict[int, Task] = {}
    statement = select(Task).where(Task.image_id.in_(image_ids), Task.status != "deleted")
    for task in session.scalars(statement.order_by(Task.id)):
        assert task.image_id is not None
        other = found.get(task.image_id)
        if other is None or _rank(task) < _rank(other):
            found[task.image_id] = task
    return found


def _rank(task: Task) -> int:
    return PROGRESS_ORDER.index(task.status)


def problems(session: Session, project_id: int | None = None) -> list[tuple[int, str]]:
    """(Label Studio's number, reason) of the tasks whose image cannot be used, oldest first.

    Args:
        project_id: only of this project, without deleted tasks.
    """
    statement = select(Task.ls_task_id, Task.problem).where(Task.problem.is_not(None))
    if project_id is not None:
        statement = statement.where(Task.ls_project_id == project_id, Task.status != "deleted")
    rows = session.execute(statement.order_by(Task.id))
    return [(ls_task_id, str(problem)) for ls_task_id, problem in rows]


def count(session: Session, project_id: int, status: TaskStatus | None = None) -> int:
    """How many tasks a project has, or has in one status; deleted ones are left out."""
    statement = select(func.count(Task.id)).where(
        Task.ls_project_id == project_id, Task.status != "deleted"
    )
    if status is not None:
        statement = statement.where(Task.status == status)
    return session.scalar(statement) or 0


def count_by_status(session: Session) -> dict[str, int]:
    """How many tasks are in each status that occurs."""
    counts = select(Task.status, func.count()).group_by(Task.status).order_by(Task.status)
    return {name: count for name, count in session.execute(counts)}
