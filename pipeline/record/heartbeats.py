"""Rows of signs of life: of the schedule, of each worker, and of the passes that run by themselves.

Nobody notices by themselves that the schedule or a worker is gone: annotators go on clicking, and
only much later someone misses the next round.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline.record.tables import Heartbeat, now

SCHEDULE = "schedule"  # noted by Celery's beat
RECONCILE = "reconcile"  # noted when a pass has ended
WHOLE_PASS = "whole pass over project "  # and its number; noted when one begins
WORKER = "worker "  # and its name; noted by each worker's parent process
BEAT_SECONDS = 10.0  # between two signs of life of one part
SILENT_SECONDS = 60.0  # without one, after which a part counts as silent
PASSES = 3  # reconcile passes that may be missing before their queue counts as stuck
FORGOTTEN = timedelta(days=1)  # after which the row of a worker that is gone is removed


def note(session: Session, name: str, queues: Collection[str] = ()) -> None:
    """Write that a part is alive now.

    Args:
        queues: of a worker: the queues that it reads.
    """
    row = session.get(Heartbeat, name)
    detail = {"queues": sorted(queues)} if queues else {}
    if row is None:
        try:
            with session.begin_nested():
                session.add(Heartbeat(name=name, detail=detail))
            return
        except IntegrityError:  # Another process wrote the row since we looked.
            row = session.get_one(Heartbeat, name, populate_existing=True)
    row.seen_at, row.detail = now(), detail


def age(session: Session, name: str) -> float | None:
    """Seconds since the last sign of life of a part; None: there never was one."""
    row = session.get(Heartbeat, name)
    return None if row is None else (now() - row.seen_at).total_seconds()


def ages(session: Session) -> dict[str, float]:
    """Seconds since the last sign of life of each part, by its name."""
    moment = now()
    rows = session.scalars(select(Heartbeat))
    return {row.name: (moment - row.seen_at).total_seconds() for row in rows}


def silent(session: Session, queues: Collection[str], poll_seconds: float) -> list[str]:
    """A sentence for each part that should give signs of life and does not.

    Args:
        queues: all queues; each needs a living worker.
        poll_seconds: between two reconcile passes.
    """
    rows = {row.name: row for row in session.scalars(select(Heartbeat))}
    moment = now()

    def seconds(name: str) -> float | None:
        return (moment - rows[name].seen_at).total_seconds() if name in rows else None

    found = []
    if (age := seconds(SCHEDULE)) is None or age > SILENT_SECONDS:
        found.append(
            f"The schedule {_since(age)}, so nothing runs by itself; start `maskloop up`, or "
            "`celery -A workers.app beat`."
        )
    heard = {
        queue
        for name, row in rows.items()
        if name.startswith(WORKER) and (moment - row.seen_at).total_seconds() <= SILENT_SECONDS
        for queue in row.detail.get("queues", ())
    }
    deaf = sorted(set(queues) - heard)
    if deaf:
        found.append(
            f"No worker reads the queue{'s' if len(deaf) > 1 else ''} {', '.join(deaf)}; start "
            f"`maskloop up`, or `celery -A workers.app worker -Q {','.join(deaf)}`."
        )
    limit = PASSES * poll_seconds + SILENT_SECONDS
    if not found and (age := seconds(RECONCILE)) is not None and age > limit:
        found.append(
            f"Reconcile {_since(age)}, although the schedule and the workers are "
            "alive; read the worker's log."
        )
    return found


def forget_lost(session: Session) -> None:
    """Remove the rows of workers that have been gone for long; each has its own name."""
    for row in session.scalars(select(Heartbeat).where(Heartbeat.name.startswith(WORKER))):
        if now() - row.seen_at > FORGOTTEN:
            session.delete(row)


def _since(age: float | None) -> str:
    if age is None:
        return "has never given a sign of life"
    unit, size = next(
        (unit, size)
        for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))
        if age >= size or size == 1
    )
    number = int(age // size)
    return f"gave its last sign of life {number} {unit}{'' if number == 1 else 's'} ago"
