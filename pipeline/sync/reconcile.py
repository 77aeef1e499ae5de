"""Makes our record equal to Label Studio, even when webhooks were lost.

A webhook may come twice, late or never (``pipeline.sync.webhooks``). Reconcile checks every task
that changed, so that afterwards our rows equal a fresh export, whatever the webhooks did.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline.images.catalog import task_of
from pipeline.labelstudio.client import RemoteTask
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.projects import find_project
from pipeline.labelstudio.types import ProjectJson
from pipeline.record import annotation_rows, events, heartbeats, tasks
from pipeline.record.tables import Task, now
from pipeline.runtime import Runtime
from pipeline.sync.annotations import apply_annotation
from pipeline.sync.webhooks import handle_event, sentence

# The queue has lost the message of an unfinished event this old, so reconcile handles the event.
OVERDUE = timedelta(minutes=1)
WHOLE_PASS_SECONDS = 3600  # between two passes over every task of a project


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

    Only tasks that changed since the last pass, or whose annotations are counted differently, are
    compared. What fails is named in the report and
    is tried again by the next pass.

    Raises:
        LabelStudioError: Label Studio is out of reach, or has no such project.
        LabelConfigError: its labelling config lacks what maskloop needs.
    """
    finished, problems = _finish_events(runtime)
    client = runtime.label_studio
    project = find_project(client, project_id)
    config = read_label_config(str(project["label_config"]))
    with runtime.sessions() as session:  # Read before Label Studio is asked, as below.
        before = tasks.living(session, project_id)
    remote = {task.id: task for task in client.tasks(project_id)}
    gone = _remove_missing(runtime, before, remote)
    new, stale = _compare_tasks(runtime, project_id, remote, config.image_field)
    changed, deleted = _reconcile_tasks(runtime, stale, remote, config, problems)
    if _is_apart(runtime, project_id, project):
        rest = [
            task_id for task_id in _rows_of(runtime, project_id, remote) if task_id not in stale
        ]
        more = _reconcile_tasks(runtime, rest, remote, config, problems, whole=True)
        changed, deleted = changed + more[0], deleted + more[1]
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


def _reconcile_tasks(
    runtime: Runtime,
    task_ids: Sequence[int],
    remote: Mapping[int, RemoteTask],
    config: LabelConfig,
    problems: list[str],
    *,
    whole: bool = False,
) -> tuple[int, int]:
    """Compare the annotations of these tasks; returns how many changed and how many were deleted.

    Args:
        problems: takes a sentence for each task or region that could not be read.
        whole: ask for the annotations also where the listing says that there are none.
    """
    changed = deleted = 0
    for task_id in task_ids:
        try:
            found = _reconcile_task(runtime, task_id, remote, config, whole=whole)
        except Exception as error:  # No error in one task may stop the rest.
            problems.append(sentence(error))
            continue
        changed, deleted = changed + found[0], deleted + found[1]
        problems += found[2]
    return changed, deleted


def _is_apart(runtime: Runtime, project_id: int, project: ProjectJson) -> bool:
    """Whether Label Studio counts other annotations in the project than we do, and it is time to
    look at every task because of that.

    When Label Studio dies between writing an annotation and changing its task, nothing in the
    listing of tasks shows the annotation.
    """
    submitted, skipped = (
        project.get("total_annotations_number"),
        project.get("skipped_annotations_number"),
    )
    if submitted is None or skipped is None:
        return False
    name = f"{heartbeats.WHOLE_PASS}{project_id}"
    with runtime.sessions.begin() as session:
        ours = sum(annotation_rows.living_by_task(session, project_id).values())
        age = heartbeats.age(session, name)
        if ours == submitted + skipped or (age is not None and age < WHOLE_PASS_SECONDS):
            return False
        heartbeats.note(session, name)
    return True


def _rows_of(runtime: Runtime, project_id: int, remote: Mapping[int, RemoteTask]) -> list[int]:
    with runtime.sessions() as session:
        rows = tasks.living(session, project_id)
    return [task_id for ls_task_id, task_id in rows.items() if ls_task_id in remote]


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
        counts = annotation_rows.living_by_task(session, project_id)
        stale = []
        for found in remote.values():
            row = rows.get(found.id)
            if row is None or row.url != found.data.get(field):
                row = task_of(session, project_id, found.id, found.data, field)
            if row.status == "deleted":  # That was wrong, or Label Studio was restored.
                row.status, row.reconciled_at = "pool", None
                annotation_rows.set_status(session, row)
            # Label Studio may have died after it counted an annotation and before it changed the
            # time of the task.
            counted = counts.get(row.id, 0) == found.annotations
            if row.reconciled_at != found.updated_at or not counted:
                stale.append(row)
        session.flush()
        return len(remote.keys() - rows.keys()), [row.id for row in stale]


def _reconcile_task(
    runtime: Runtime,
    task_id: int,
    remote: Mapping[int, RemoteTask],
    config: LabelConfig,
    *,
    whole: bool,
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
    asks = whole or found.annotations or known
    shown = runtime.label_studio.annotations(found.id) if asks else []
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
