"""What happened in Label Studio into our record: by webhook at once, by reconcile for certain.

A webhook may come twice, late or never. Reconcile looks everywhere that something changed, so
that after it our rows equal a fresh export whatever the webhooks did.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from pipeline.errors import UnknownRecordError
from pipeline.images.catalog import Source
from pipeline.labelstudio.client import LabelStudio, RemoteTask
from pipeline.labelstudio.config import LabelConfig
from pipeline.record.tables import Annotation, Event, Task, now
from pipeline.settings import Settings
from pipeline.storage.store import Store
from pipeline.sync.annotations import remove_annotations, remove_tasks, set_status
from pipeline.sync.webhooks import Parts, project_config, task_of, work

log = logging.getLogger(__name__)

# An event this old that nobody finished lost its message, and reconcile works on it.
OVERDUE = timedelta(minutes=1)
# By now reconcile has long seen in the API what a failing event was about.
GIVE_UP = timedelta(days=1)


@dataclass(frozen=True)
class ReconcileReport:
    """One reconcile pass. ``problems`` are sentences about what could not be brought up to date."""

    tasks: int  # in the project
    tasks_new: int
    tasks_deleted: int
    annotations_changed: int
    annotations_deleted: int
    events_finished: int
    prompts_only: int  # annotations in the project that were submitted without the tick
    problems: tuple[str, ...]


def handle_event(
    sessions: sessionmaker[Session],
    client: LabelStudio,
    store: Store,
    source: Source,
    settings: Settings,
    event_id: int,
) -> None:
    """Work on one stored webhook delivery; nothing to do when that was done.

    Raises:
        UnknownRecordError: there is no such event.
        MaskloopError: it could not be worked on; the reason is kept with the event, which stays
            open, to be tried again by a retry or by reconcile.
    """
    with sessions() as session:
        event = session.get(Event, event_id)
    if event is None:
        raise UnknownRecordError(f"There is no event {event_id}; it needs no handling.")
    if event.done_at is not None:
        return
    parts = Parts(sessions, client, store, source, settings)
    try:
        problems = work(parts, event.action, event.payload)
    except Exception as error:
        done = now() - event.received_at > GIVE_UP
        _close(sessions, event_id, _sentence(error), done=done)
        raise
    _close(sessions, event_id, "; ".join(problems) or None, done=True)


def reconcile(
    sessions: sessionmaker[Session],
    client: LabelStudio,
    store: Store,
    source: Source,
    settings: Settings,
    project_id: int,
) -> ReconcileReport:
    """Make our rows equal to the project as Label Studio's API shows it.

    Only tasks that changed since the last pass are looked into. What fails is named in the report
    and looked into again by the next pass.

    Raises:
        LabelStudioError: Label Studio is out of reach, or has no such project.
        LabelConfigError: its labelling config lacks what maskloop needs.
    """
    parts = Parts(sessions, client, store, source, settings)
    finished, problems = _finish_events(parts)
    config = project_config(client, project_id)
    with sessions() as session:  # before Label Studio is asked, as for annotations below
        living = select(Task.ls_task_id, Task.id).where(
            Task.ls_project_id == project_id, Task.status != "deleted"
        )
        before = {ls_task_id: task_id for ls_task_id, task_id in session.execute(living)}
    remote = {task.id: task for task in client.tasks(project_id)}
    gone = _remove_missing(parts, before, remote)
    new, stale = _compare_tasks(parts, project_id, remote, config.image_field)
    changed = deleted = 0
    for task_id in stale:
        try:
            task_changed, task_deleted, damaged = _reconcile_task(parts, task_id, remote, config)
        except Exception as error:  # one task, whatever is wrong with it, must not stop the rest
            problems.append(_sentence(error))
            continue
        changed, deleted = changed + task_changed, deleted + task_deleted
        problems += damaged
    with sessions() as session:
        prompts_only = session.scalar(
            select(func.count())
            .select_from(Annotation)
            .join(Task)
            .where(Task.ls_project_id == project_id)
            .where(Annotation.prompts_only, Annotation.deleted.is_(False))
        )
    return ReconcileReport(
        tasks=len(remote),
        tasks_new=new,
        tasks_deleted=gone,
        annotations_changed=changed,
        annotations_deleted=deleted,
        events_finished=finished,
        prompts_only=prompts_only or 0,
        problems=tuple(problems),
    )


def _finish_events(parts: Parts) -> tuple[int, list[str]]:
    """Work on events whose message was lost or that failed before; how many are done now."""
    with parts.sessions() as session:
        overdue = session.scalars(
            select(Event.id)
            .where(Event.done_at.is_(None), Event.received_at < now() - OVERDUE)
            .order_by(Event.id)
        ).all()
    finished, problems = 0, []
    for event_id in overdue:
        try:
            handle_event(
                parts.sessions, parts.client, parts.store, parts.source, parts.settings, event_id
            )
            finished += 1
        except Exception as error:  # nor may one event
            problems.append(f"Event {event_id}: {_sentence(error)}")
    return finished, problems


def _remove_missing(parts: Parts, before: Mapping[int, int], remote: Collection[int]) -> int:
    """Remove those of the tasks ``before`` (Label Studio's id to ours) that were deleted there.

    One deleted while the listing was read moves the next page by one, and a task between the pages
    is in neither: so each task that is missing is asked for by its id.
    """
    missing = before.keys() - remote
    gone = [before[ls_task_id] for ls_task_id in missing if parts.client.task(ls_task_id) is None]
    with parts.sessions.begin() as session:
        return remove_tasks(session, [session.get_one(Task, task_id) for task_id in gone])


def _compare_tasks(
    parts: Parts, project_id: int, remote: Mapping[int, RemoteTask], field: str
) -> tuple[int, list[int]]:
    """How many tasks are new, and the row ids of those to look into."""
    with parts.sessions.begin() as session:
        rows = {
            row.ls_task_id: row
            for row in session.scalars(select(Task).where(Task.ls_project_id == project_id))
        }
        stale = []
        for found in remote.values():
            row = rows.get(found.id)
            if row is None or row.url != found.data.get(field):
                row = task_of(session, project_id, found.id, found.data, field)
            if row.status == "deleted":  # whoever said so was wrong, or Label Studio was restored
                row.status, row.reconciled_at = "pool", None
                set_status(session, row)
            if row.reconciled_at != found.updated_at:
                stale.append(row)
        session.flush()
        return len(remote.keys() - rows.keys()), [row.id for row in stale]


def _reconcile_task(
    parts: Parts, task_id: int, remote: Mapping[int, RemoteTask], config: LabelConfig
) -> tuple[int, int, list[str]]:
    """Compare the annotations of one task: how many changed and were deleted, what is damaged."""
    with parts.sessions() as session:
        task = session.get_one(Task, task_id)
        # Read before Label Studio is asked: one that a webhook brings meanwhile is not missing.
        known = set(
            session.scalars(
                select(Annotation.ls_annotation_id).where(
                    Annotation.task_id == task_id, Annotation.deleted.is_(False)
                )
            )
        )
    found = remote[task.ls_task_id]
    # Most tasks of a new project have no annotation, and need no call to know that.
    annotations = parts.client.annotations(found.id) if found.annotations or known else []
    applied = [parts.apply(task_id, annotation, config) for annotation in annotations]
    with parts.sessions.begin() as session:
        missing = known - {int(annotation["id"]) for annotation in annotations}
        deleted = remove_annotations(session, missing)
        # The time of the listing, not of now: a change in between moved it and is seen next time.
        session.get_one(Task, task_id).reconciled_at = found.updated_at
    return (
        sum(each.changed for each in applied),
        deleted,
        [problem for each in applied for problem in each.problems],
    )


def _sentence(error: Exception) -> str:
    if isinstance(error, MaskloopError):
        return str(error)
    log.error("unexpected while following Label Studio", exc_info=error)
    return f"unexpected: {error!r}"


def _close(
    sessions: sessionmaker[Session], event_id: int, problem: str | None, *, done: bool
) -> None:
    with sessions.begin() as session:
        event = session.get_one(Event, event_id)
        event.problem = problem
        event.done_at = now() if done else None
