"""A night of the loop, task by task. Each is thin, idempotent, and safe to run twice at once.

The imports stand inside the tasks: the worker's parent process imports this module too, and must
not import torch before it forks (see ``workers.app``).
"""

from __future__ import annotations

import functools
from dataclasses import asdict

from celery import current_task

from pipeline import queue
from pipeline.runtime import Runtime
from pipeline.settings import load_settings
from workers.retrying import Result, loop_task


@functools.cache
def runtime() -> Runtime:
    """This process's runtime: one database engine, one model, for as long as the process lives."""
    return Runtime(load_settings())


@loop_task(queue.HANDLE_EVENT)
def handle_event(event_id: int) -> Result:
    """A webhook said that an annotation changed: bring its regions up to date."""
    from pipeline.sync import reconcile as sync

    with_ = runtime()
    sync.handle_event(
        with_.sessions,
        with_.label_studio,
        with_.store,
        with_.images,
        with_.settings,
        event_id,
    )
    # A new task is encoded before anyone opens it, not only at the next reconcile.
    return {"event": event_id, "encoding": _send_waiting(with_)}


@loop_task(queue.RECONCILE, retries=0)
def reconcile() -> Result:
    """Find what no webhook told us, and what no message survived to tell."""
    from pipeline.sync import reconcile as sync

    with_ = runtime()
    report = sync.reconcile(
        with_.sessions,
        with_.label_studio,
        with_.store,
        with_.images,
        with_.settings,
        with_.project(),
    )
    return {**asdict(report), "encoding": _send_waiting(with_)}


@loop_task(queue.ENCODE_PROJECT)
def encode_project(project_id: int) -> Result:
    """Have every image of a project encoded: one message each, so that workers share them.

    Those that failed are tried again: an image server that was down is up by now.
    """
    from pipeline.precompute.encode import register_tasks

    register_tasks(runtime(), project_id)
    return {"sent": _send_waiting(runtime(), project_id, again=True)}


@loop_task(queue.ENCODE_TASK)
def encode_task(task_id: int) -> Result:
    """Fetch one task's image and encode it; nothing to do when that was done."""
    from pipeline.precompute.encode import encode_task

    return {"image": encode_task(runtime(), task_id)}


@loop_task(queue.FINETUNE_IF_DUE, retries=0)
def finetune_if_due() -> Result:
    """Start a fine-tune when enough is new, or when it is time."""
    from pipeline.training.due import due

    with runtime().sessions.begin() as session:
        start = due(session, runtime().settings)
    if start:
        runtime().enqueuer.send(queue.FINETUNE)
    return {"sent": start}


@loop_task(queue.FINETUNE)
def finetune() -> Result:
    """Snapshot, train from the base, let the gate decide; nothing to do when that was judged."""
    from pipeline.training.finetune import run_finetune

    with_ = runtime()
    result = run_finetune(with_.sessions, with_.store, with_.embeddings, with_.settings)
    if result["status"] == "promoted" and with_.settings.label_studio.project is not None:
        # What was hard for the old version may be easy now: the pool is scored again.
        with_.enqueuer.send(queue.SELECT, with_.settings.label_studio.project)
    return result


@loop_task(queue.SELECT_IF_DUE, retries=0)
def select_if_due() -> Result:
    """Choose a round when the last one is labelled, or there is none yet.

    It looks and chooses in one go, where rounds are chosen: of two such messages that waited for a
    fine-tune to end, the second finds the first one's round.
    """
    from pipeline.training.due import round_due

    project_id = runtime().settings.label_studio.project
    if project_id is None:
        return {"due": False}
    with runtime().sessions.begin() as session:
        start = round_due(session, project_id)
    return _select(project_id) if start else {"due": False}


@loop_task(queue.SELECT)
def select(project_id: int, size: int | None = None) -> Result:
    """Choose the next round and hand it to Label Studio in that order."""
    return _select(project_id, size)


@loop_task(queue.MIRROR, retries=0)
def mirror() -> Result:
    """Show FiftyOne what the record holds."""
    from pipeline.mirror.dataset import mirror

    with_ = runtime()
    return asdict(mirror(with_.sessions, with_.store, with_.settings))


@loop_task(queue.PROMOTE)
def promote(name: str) -> Result:
    """Have every image encoded by a version's encoder, then let it serve."""
    from pipeline.training.promote import promote

    return {"serving": promote(runtime(), name, message=str(current_task.request.id)).name}


def _send_waiting(with_: Runtime, project_id: int | None = None, *, again: bool = False) -> int:
    """Send the images that are not encoded yet; returns how many."""
    from pipeline.precompute.encode import waiting_tasks

    if with_.enqueuer.waiting()[queue.ENCODE_QUEUE]:
        return 0  # they are on their way; the next reconcile sees what is left
    with with_.sessions() as session:
        rows = waiting_tasks(session, project_id, again=again)
    for row in rows:
        with_.enqueuer.send(queue.ENCODE_TASK, row)
    return len(rows)


def _select(project_id: int, size: int | None = None) -> Result:
    """Choose and write a round once for each message, however often it is delivered."""
    from pipeline.selection.select import select_round

    message = str(current_task.request.id)
    result = select_round(runtime(), project_id, size=size, message=message)
    runtime().enqueuer.send(queue.MIRROR)  # the data team sees the round it is about
    return result
