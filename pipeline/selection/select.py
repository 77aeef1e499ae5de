"""Chooses a round and writes it to Label Studio, as one job."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from model.progress import Progress, both, silent
from pipeline.record import rounds
from pipeline.record.jobs import done_by, job
from pipeline.record.tables import Round, now
from pipeline.runtime import Runtime
from pipeline.selection.due import KIND
from pipeline.selection.label_order import write_round
from pipeline.selection.rounds import make_round

STILL_FRESH = timedelta(hours=1)  # a round chosen longer ago than this is chosen again, not written


def select_round(
    runtime: Runtime,
    project_id: int,
    *,
    size: int | None = None,
    message: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Choose the next round of a project and write it to Label Studio in that order.

    Args:
        message: id of the queue's message that asks for this; a second delivery changes nothing.

    Returns:
        ``{"project", "round": its number, "tasks": how many, "version": name that serves,
        "message"}``.

    Raises:
        BusyError: a round is being chosen already.
        NotEnoughDataError: no encoded image is left to choose from.
        LabelStudioError: the order could not be written; the round is kept for the next try.
    """
    if message is not None:
        with runtime.sessions() as session:
            done = done_by(session, KIND, message)
        if done is not None:
            return done.result or {}
    with job(runtime.sessions, KIND, exclusive=True) as handle:
        version, model = runtime.serving.current()
        chosen = _unwritten(runtime, project_id) or make_round(
            runtime, project_id, model, size=size, progress=both(handle.progress, progress)
        )
        tasks = write_round(runtime, chosen.id)
        handle.result = {
            "project": project_id,
            "round": chosen.number,
            "tasks": tasks,
            "version": version.name,
            "message": message,
        }
        handle.message = f"Round {chosen.number} is in Label Studio."
    return handle.result


def _unwritten(runtime: Runtime, project_id: int) -> Round | None:
    """A recent round that Label Studio never received; a retry writes it instead of a new one."""
    with runtime.sessions() as session:
        return rounds.unwritten_since(session, project_id, now() - STILL_FRESH)
