"""Rows of long jobs: who runs one, how far it is, and what came of it.

A job is a row, never a process's variable, so ``maskloop status`` shows it whatever process runs
it, and a crash leaves a trace. A row left ``running`` by a process that died is found by its
owner (same machine: the process is gone) or by its silence (another machine).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from pipeline.errors import ServiceError
from pipeline.record.engine import lock
from pipeline.record.tables import Job, now

SILENT_AFTER = timedelta(minutes=5)  # a job on another machine that says nothing for longer is dead
WRITE_EVERY = 0.5  # seconds between two writes of a job's progress


class JobBusyError(ServiceError):
    """The same job is running elsewhere at this moment."""


@dataclass
class JobHandle:
    """What a running job tells the record. ``progress`` fits ``model.progress.Progress``."""

    sessions: sessionmaker[Session]
    id: int
    result: dict[str, Any] | None = None
    message: str | None = None
    _written: float = field(default=-WRITE_EVERY, repr=False)

    def progress(self, done: int, total: int | None) -> None:
        """Note that ``done`` of ``total`` steps are over; cheap enough to call at every step."""
        moment = time.monotonic()
        if done != total and moment - self._written < WRITE_EVERY:
            return
        self._written = moment
        with self.sessions.begin() as session:
            session.execute(
                update(Job).where(Job.id == self.id).values(done=done, total=total, seen_at=now())
            )


@contextmanager
def job(
    sessions: sessionmaker[Session], kind: str, *, exclusive: bool = False
) -> Iterator[JobHandle]:
    """Run a block as a job of ``kind``; its row says done or failed when the block is left.

    Args:
        exclusive: refuse while a living job of the same kind is running.

    Raises:
        JobBusyError: ``exclusive`` and another one is running.
    """
    with sessions.begin() as session:
        if exclusive:
            lock(session, f"job {kind}")
        bury_dead(session, kind)
        if exclusive and (other := running(session, kind)) is not None:
            raise JobBusyError(
                f"A {kind} job is already running ({other.owner}); wait until it is done."
            )
        row = Job(kind=kind, status="running", owner=_me())
        session.add(row)
        session.flush()
        handle = JobHandle(sessions, row.id)
    try:
        yield handle
    except BaseException as error:
        _close(handle, "failed", _sentence(kind, error))
        raise
    _close(handle, "done", handle.message)


def running(session: Session, kind: str) -> Job | None:
    """The newest job of ``kind`` that is running, if any."""
    statement = select(Job).where(Job.kind == kind, Job.status == "running")
    return session.scalars(statement.order_by(Job.id.desc()).limit(1)).first()


def done_by(session: Session, kind: str, message: str) -> Job | None:
    """The job of ``kind`` that was done for the queue's ``message``, among the last hundred.

    A message may be delivered twice; a job that makes something new each time asks this first.
    """
    statement = select(Job).where(Job.kind == kind, Job.status == "done")
    newest = session.scalars(statement.order_by(Job.id.desc()).limit(100))
    return next((row for row in newest if (row.result or {}).get("message") == message), None)


def bury_dead(session: Session, kind: str | None = None) -> int:
    """Mark jobs failed whose process died without a word; return how many."""
    statement = select(Job).where(Job.status == "running")
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    dead = [row for row in session.scalars(statement) if not _alive(row)]
    for row in dead:
        row.status = "failed"
        row.message = f"The process of this {row.kind} job ended without a word; it runs again."
        # finished_at stays empty: it did not finish, which tells a crash from a failure
    return len(dead)


def _alive(row: Job) -> bool:
    host, _, process = (row.owner or "").rpartition(":")
    if host == socket.gethostname() and process.isdigit():
        try:
            os.kill(int(process), 0)  # signal 0 only asks whether the process exists
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return now() - row.seen_at < SILENT_AFTER


def _me() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _sentence(kind: str, error: BaseException) -> str:
    if isinstance(error, MaskloopError):
        return str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return f"The {kind} job was interrupted; start it again."
    return f"The {kind} job failed ({type(error).__name__}: {error}); see the worker's log."


def _close(handle: JobHandle, status: str, message: str | None) -> None:
    values = {"status": status, "message": message, "result": handle.result, "finished_at": now()}
    with handle.sessions.begin() as session:
        session.execute(update(Job).where(Job.id == handle.id).values(**values))
