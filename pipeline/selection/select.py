"""Choosing a round and handing it to Label Studio, as one job."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import select

from model.progress import Progress, silent
from pipeline.record.jobs import done_by, job
from pipeline.record.tables import Round, now
from pipeline.runtime import Runtime
from pipeline.selection.label_order import write_round
from pipeline.selection.rounds import make_round
from pipeline.training.due import SELECT_KIND

STILL_FRESH = timedelta(hours=1)  # how long a chosen round that was not written is worth writing


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
        message: id of the queue's message that asks for it; delivered again, it changes nothing.

    Returns:
        ``{"project", "round": its number, "tasks": how many, "version": name that serves,
        "message"}``.

    Raises:
        JobBusyError: a round is being chosen already.
        NotEnoughDataError: no encoded image is left to choose from.
        LabelStudioError: the order could not be written; the round is kept for the next try.
    """
    if message is not None:
        with runtime.sessions() as session:
            done = done_by(session, SELECT_KIND, message)
        if done is not None:
            return done.result or {}
    with job(runtime.sessions, SELECT_KIND, exclusive=True) as handle:

        def report(done: int, total: int | None) -> None:
            handle.progress(done, total)
            progress(done, total)

        version, model = runtime.serving.current()
        chosen = _unwritten(runtime, project_id) or make_round(
            runtime.sessions,
            runtime.embeddings,
            model,
            runtime.settings,
            project_id,
            size=size,
            progress=report,
        )
        with runtime.sessions.begin() as session:
            tasks = write_round(runtime.label_studio, session, session.merge(chosen))
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
    """A round chosen lately that Label Studio never got: a retry writes it, not yet another one."""
    statement = select(Round).where(
        Round.ls_project_id == project_id, Round.created_at > now() - STILL_FRESH
    )
    with runtime.sessions() as session:
        newest = session.scalars(statement.order_by(Round.number.desc()).limit(1)).first()
    return newest if newest is not None and newest.written_at is None else None
