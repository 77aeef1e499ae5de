"""The tasks of the loop. Each is thin, idempotent, and safe to run twice at the same time.

The imports are inside the tasks, because the worker's parent process imports this module too and
must not import torch before it forks (see ``workers.app``).
"""

from __future__ import annotations

import functools
import logging
from contextlib import suppress
from dataclasses import asdict

from celery import current_task
from celery.signals import worker_process_shutdown

from model.errors import MaskloopError
from pipeline import queue
from pipeline.errors import ServiceError
from pipeline.record import heartbeats, jobs, projects, retries, tasks
from pipeline.record.engine import only_one
from pipeline.record.tables import Task
from pipeline.runtime import Runtime
from pipeline.settings import load_settings
from workers.retrying import Result, loop_task

log = logging.getLogger(__name__)


@functools.cache
def runtime() -> Runtime:
    """This process's runtime: one database engine, one model, for as long as the process lives."""
    return Runtime(load_settings(), migrate=True)


def close_runtime(**_: object) -> None:
    """Close what this process opened, when its worker ends it."""
    if runtime.cache_info().currsize:
        runtime().close()


worker_process_shutdown.connect(close_runtime)


@loop_task(queue.HANDLE_EVENT)
def handle_event(event_id: int) -> Result:
    """Handle a webhook: bring the regions of the annotation that changed up to date."""
    from pipeline.sync.webhooks import handle_event

    handle_event(runtime(), event_id)
    # New tasks are sent now and not at the next reconcile, so that they are encoded before anyone
    # opens them.
    return {"event": event_id, "encoding": _send_waiting()}


@loop_task(queue.RECONCILE, retries=0)
def reconcile() -> Result:
    """Find changes that no webhook reported, and work whose message was lost, in every project.

    An error in one project does not keep the others waiting.
    """
    from pipeline.sync.reconcile import reconcile

    reports: dict[int, Result] = {}
    with only_one(runtime().settings, "reconcile") as alone:
        if not alone:
            return {"busy": True}
        for project_id in _projects():
            try:
                reports[project_id] = asdict(reconcile(runtime(), project_id))
            except MaskloopError as error:
                log.error("Project %d was not reconciled: %s", project_id, error)
                reports[project_id] = {"problem": str(error)}
    with runtime().sessions.begin() as session:
        heartbeats.note(session, heartbeats.RECONCILE)
        heartbeats.forget_lost(session)
    return {"projects": reports, "encoding": _send_waiting()}


@loop_task(queue.ENCODE_PROJECTS, retries=0)
def encode_projects() -> Result:
    """Have the images of every project tried again that could not be fetched."""
    found = _projects()
    for project_id in found:
        runtime().enqueuer.send(queue.ENCODE_PROJECT, project_id)
    return {"projects": found}


@loop_task(queue.ENCODE_PROJECT)
def encode_project(project_id: int, asked: bool = False) -> Result:
    """Send every image of a project to be encoded, one message each, so that workers share them.

    Images that failed are tried again, because a server that was down may be up by now: after
    growing pauses, and at once when a person ``asked``.
    """
    from pipeline.precompute.encode import register_tasks

    if asked:
        with runtime().sessions.begin() as session:
            retries.release(session, Task)
    register_tasks(runtime(), project_id)
    return {"sent": _send_waiting(project_id, again=True)}


@loop_task(queue.ENCODE_TASK)
def encode_task(task_id: int) -> Result:
    """Fetch one task's image and encode it; do nothing when that was already done."""
    from pipeline.precompute.encode import encode_task

    return {"image": encode_task(runtime(), task_id)}


@loop_task(queue.FINETUNE_IF_DUE, retries=0)
def finetune_if_due() -> Result:
    """Start a fine-tune when enough regions are new, or when enough time has passed."""
    from pipeline.training.due import KIND, due

    _bury_dead(KIND)
    with runtime().sessions() as session:
        start = due(session, runtime().settings)
    if start:
        runtime().enqueuer.send(queue.FINETUNE)
    return {"sent": start}


@loop_task(queue.FINETUNE)
def finetune(asked: bool = False) -> Result:
    """Take a snapshot, train from the base and let the gate decide.

    It does nothing when the gate has already judged that snapshot. Messages may pile up behind a
    long fine-tune, so one that nobody ``asked`` for looks again whether a fine-tune is due.
    """
    from pipeline.training.due import due
    from pipeline.training.finetune import run_finetune

    if not asked:
        with runtime().sessions() as session:
            if not due(session, runtime().settings):
                return {"status": "not due"}
    result = run_finetune(runtime())
    if result["status"] == "promoted":
        # Only to be quick: the schedule sees in SQL that another version serves.
        with suppress(ServiceError):
            runtime().enqueuer.send(queue.SELECT_IF_DUE)
    return result


@loop_task(queue.SELECT_IF_DUE, retries=0)
def select_if_due() -> Result:
    """In every project, choose a round when the last one is labelled, or when there is none yet.

    The check and the choice are one task, on the queue on which rounds are chosen. When two such
    messages waited for a fine-tune to end, the second finds the round of the first.
    """
    from pipeline.selection.due import KIND, round_due

    _bury_dead(KIND)
    chosen: dict[int, Result] = {}
    for project_id in _projects():
        with runtime().sessions() as session:
            start = round_due(session, project_id)
        if start:
            try:
                # Each project has its own round, so each has its own name for the message.
                chosen[project_id] = _select(project_id, of=project_id)
            except MaskloopError as error:
                log.error("No round was chosen for project %d: %s", project_id, error)
                chosen[project_id] = {"problem": str(error)}
    return {"chosen": chosen}


@loop_task(queue.SELECT)
def select(project_id: int, size: int | None = None) -> Result:
    """Choose the next round and write its order to Label Studio."""
    return _select(project_id, size)


@loop_task(queue.MIRROR, retries=0)
def mirror() -> Result:
    """Bring FiftyOne's dataset up to date with the record."""
    from pipeline.mirror.dataset import mirror

    return asdict(mirror(runtime()))


@loop_task(queue.PRUNE, retries=0)
def prune() -> Result:
    """Remove what nobody needs any more."""
    from pipeline.retention.prune import prune

    return asdict(prune(runtime()))


@loop_task(queue.PROMOTE)
def promote(name: str) -> Result:
    """Encode every image with a version's encoder, then let that version serve."""
    from pipeline.training.promote import promote

    return {"serving": promote(runtime(), name, message=str(current_task.request.id)).name}


def _bury_dead(kind: str) -> None:
    """Record which jobs of a kind have died. The check whether one is due only reads."""
    with runtime().sessions.begin() as session:
        jobs.bury_dead(session, kind)


def _send_waiting(project_id: int | None = None, *, again: bool = False) -> int:
    """Send a message for each image that is not encoded yet; return how many were sent."""
    enqueuer = runtime().enqueuer
    if enqueuer.waiting()[queue.ENCODE_QUEUE]:
        return 0  # They are in the queue already; the next reconcile sends what is left.
    with runtime().sessions() as session:
        rows = tasks.to_encode(session, project_id, again=again)
    for row in rows:
        enqueuer.send(queue.ENCODE_TASK, row)
    return len(rows)


def _projects() -> list[int]:
    """The projects that run by themselves."""
    with runtime().sessions() as session:
        return projects.active(session, runtime().settings.label_studio.project)


def _select(project_id: int, size: int | None = None, *, of: int | None = None) -> Result:
    """Choose and write a round once for each message, however often it is delivered."""
    from pipeline.selection.select import select_round

    message = str(current_task.request.id) + ("" if of is None else f"/{of}")
    result = select_round(runtime(), project_id, size=size, message=message)
    runtime().enqueuer.send(queue.MIRROR)  # The data team then sees the new round.
    return result
