"""Makes our record equal to Label Studio, even when webhooks were lost.

A webhook may come twice, late or never (``pipeline.sync.webhooks``). Reconcile checks every task
that changed, so that afterwards our rows equal a fresh export, whatever the webhooks did.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from pipeline.images.catalog import task_of
from pipeline.labelstudio.client import RemoteTask
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.projects import project_config
from pipeline.record import annotation_rows, events, tasks
from pipeline.record.tables import Task, now
from pipeline.runtime import Runtime
from pipeline.sync.annotations import apply_annotation
from pipeline.sync.webhooks import handle_event, sentence

# The queue has lost the message of an unfinished event this old, so reconcile handles the event.
OVERDUE = timedelta(minutes=1)


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


def reconcile(runtime: Runtime, project_id: int) -> ReconcileReport:
    """Make our rows equal to the project as Label Studio's API shows it.

    Only tasks that changed since the last pass are compared. What fails is named in the report and
    is tried again by the next pass.

    Raises:
        LabelStudioError: Label Studio is out of reach, or has no such project.
        LabelConfigError: its labelling config lacks what maskloop needs.
    """
    finished, problems = _finish_events(runtime)
    client = runtime.label_studio
    config = project_config(client, project_id)
    with runtime.sessions() as session:  # Read before Label Studio is asked, as below.
        before = tasks.living(session, project_id)
    remote = {task.id: task for task in client.tasks(project_id)}
    gone = _remove_missing(runtime, before, remote)
    new, stale = _compare_tasks(runtime, project_id, remote, config.image_field)
    changed = deleted = 0
    for task_id in stale:
        try:
            task_changed, task_deleted, damaged = _reconcile_task(runtime, task_id, remote, config)
        except Exception as error:  # No error in one task may stop the rest.
            problems.append(sentence(error))
            continue
        changed, deleted = changed + task_changed, deleted + task_deleted
        problems += damaged
    with runtime.sessions() as session:
        prompts_only = annotation_rows.count_without_masks(session, project_id)
    return ReconcileReport(
        tasks=len(remote),
        tasks_new=new,
        tasks_deleted=gone,
        annotations_changed=changed,
        annotations_deleted=deleted,
        events_finished=finished,
        prompts_only=prompts_only,
        problems=tuple(problems),
    )


def _finish_events(runtime: Runtime) -> tuple[int, list[str]]:
    """Handle the events whose message was lost or that failed before.

    Returns:
        How many of them are done now, and a sentence for each that failed again.
    """
    with runtime.sessions() as session:
        overdue = events.overdue(session, now() - OVERDUE)
    finished, problems = 0, []
    for event_id in overdue:
        try:
            handle_event(runtime, event_id)
            finished += 1
        except Exception as error:  # No error in one event may stop the rest.
            problems.append(f"Event {event_id}: {sentence(error)}")
    return finished, problems


def _remove_missing(runtime: Runtime, before: Mapping[int, int], remote: Collection[int]) -> int:
    """Remove the tasks of ``before`` (Label Studio's id to ours) that were deleted there.

    When a task is deleted while the listing is read, the next page starts one task later, and a
    task that still exists may appear on neither page. So Label Studio is asked for each missing
    task by its id.
    """
    client = runtime.label_studio
    missing = before.keys() - remote
    gone = [before[ls_task_id] for ls_task_id in missing if client.task(ls_task_id) is None]
    with runtime.sessions.begin() as session:
        rows = [session.get_one(Task, task_id) for task_id in gone]
        return annotation_rows.remove_tasks(session, rows)


def _compare_tasks(
    runtime: Runtime, project_id: int, remote: Mapping[int, RemoteTask], field: str
) -> tuple[int, list[int]]:
    """How many tasks are new, and the row ids of the tasks to compare."""
    with runtime.sessions.begin() as session:
        rows = tasks.of_project(session, project_id)
        stale = []
        for found in remote.values():
            row = rows.get(found.id)
            if row is None or row.url != found.data.get(field):
                row = task_of(session, project_id, found.id, found.data, field)
            if row.status == "deleted":  # That was wrong, or Label Studio was restored.
                row.status, row.reconciled_at = "pool", None
                annotation_rows.set_status(session, row)
            if row.reconciled_at != found.updated_at:
                stale.append(row)
        session.flush()
        return len(remote.keys() - rows.keys()), [row.id for row in stale]


def _reconcile_task(
    runtime: Runtime, task_id: int, remote: Mapping[int, RemoteTask], config: LabelConfig
) -> tuple[int, int, list[str]]:
    """Compare the annotations of one task.

    Returns:
        How many annotations changed, how many were deleted, and a sentence for each damaged region.
    """
    with runtime.sessions() as session:
        task = tasks.get(session, task_id)
        # Read before Label Studio is asked, so that an annotation that a webhook adds meanwhile
        # does not count as missing.
        known = annotation_rows.of_task(session, task_id, living=True)
    found = remote[task.ls_task_id]
    # Most tasks of a new project have no annotation, and the listing shows that without a call.
    shown = runtime.label_studio.annotations(found.id) if found.annotations or known else []
    applied = [apply_annotation(runtime, task_id, each, config) for each in shown]
    with runtime.sessions.begin() as session:
        missing = known - {int(each["id"]) for each in shown}
        deleted = annotation_rows.remove(session, missing)
        # The time in the listing and not the present time: a change made since then has a later
        # time, so the next pass sees it.
        tasks.get(session, task_id).reconciled_at = found.updated_at
    return (
        sum(each.changed for each in applied),
        deleted,
        [problem for each in applied for problem in each.problems],
    )
