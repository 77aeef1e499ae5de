"""Rows of long jobs: which process runs a job, its progress, and its result.

A job is a row and not a variable of a process, so ``maskloop status`` shows it whichever process
runs it, and a crash leaves a trace. A thread of the process that runs a job notes every few seconds
that it is alive. When a process died and left its row ``running``, this is noticed by the row's
owner (on the same machine: the process no longer exists) or by the time since its last sign of
life.

A process that was stopped for a while, and comes back after another one took over, must not finish
its work: it finds that its row does not say ``running`` any more, and gives up
(``JobHandle.hold``). The number of a row serves as the fencing token.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import delete as remove
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from pipeline.errors import BusyError, JobEndedError, UnknownRecordError
from pipeline.record.engine import lock
from pipeline.record.retries import AWAY
from pipeline.record.tables import Job, now

log = logging.getLogger(__name__)

SILENT_AFTER = timedelta(seconds=90)  # without a sign of life, a job counts as dead
ALIVE_EVERY = 10.0  # seconds between two signs of life of a running job
WRITE_EVERY = 0.5  # seconds between two writes of a job's progress
DELIVERIES = 100  # how many of the newest jobs are searched for a message's first delivery
RETRY_FAILED = timedelta(minutes=30)  # the pause after a failed job
MAX_CRASHES = 3  # in a row, before there is a pause
FIRST_PAUSE = timedelta(minutes=1)
_ENDED = "The {kind} job was cancelled, or another process has taken it over; it ends here."
CRASHED = "The process of this {kind} job ended without a word; it runs again."


@dataclass
class JobHandle:
    """Writes the progress of a running job to its row. ``progress`` is a
    ``model.progress.Progress``."""

    sessions: sessionmaker[Session]
    id: int
    kind: str
    result: dict[str, Any] | None = None
    message: str | None = None
    _written: float = field(default=-WRITE_EVERY, repr=False)
    _ended: threading.Event = field(default_factory=threading.Event, repr=False)
    _lost: threading.Event = field(default_factory=threading.Event, repr=False)

    def progress(self, done: int, total: int | None) -> None:
        """Note that ``done`` of ``total`` steps are done; cheap enough to call at every step.

        Raises:
            JobEndedError: the job was cancelled, or another process has taken it over.
        """
        if self._lost.is_set():
            raise JobEndedError(_ENDED.format(kind=self.kind))
        moment = time.monotonic()
        if done != total and moment - self._written < WRITE_EVERY:
            return
        self._written = moment
        self._note(done=done, total=total)
        if self._lost.is_set():
            raise JobEndedError(_ENDED.format(kind=self.kind))

    def hold(self, session: Session) -> None:
        """Make sure, inside the transaction that writes a job's result, that this run still counts;
        nobody can end it before that transaction does.

        Raises:
            JobEndedError: the job was cancelled, or another process has taken it over.
        """
        statement = select(Job.status).where(Job.id == self.id).with_for_update()
        if session.scalar(statement) != "running":
            raise JobEndedError(_ENDED.format(kind=self.kind))

    def keep_alive(self) -> None:
        """Note every few seconds that the job lives, until it ends; run it in a thread."""
        while not self._ended.wait(ALIVE_EVERY):
            try:
                self._note()
            except SQLAlchemyError as error:
                log.warning("The %s job cannot note that it lives: %s", self.kind, error)

    def end(self) -> None:
        """End the thread that notes signs of life."""
        self._ended.set()

    def _note(self, **values: int | None) -> None:
        statement = update(Job).where(Job.id == self.id, Job.status == "running")
        with self.sessions.begin() as session:
            changed = session.execute(statement.values(seen_at=now(), **values))
        if not changed.rowcount:  # type: ignore[attr-defined]
            self._lost.set()


@contextmanager
def job(
    sessions: sessionmaker[Session], kind: str, *, exclusive: bool = False
) -> Iterator[JobHandle]:
    """Run a block as a job of ``kind``; its row says done or failed when the block ends.

    Args:
        exclusive: refuse to start while another job of the same kind runs in a living process.

    Raises:
        BusyError: ``exclusive`` is set and another job of this kind is running.
    """
    with sessions.begin() as session:
        if exclusive:
            lock(session, f"job {kind}")
        bury_dead(session, kind)
        if exclusive and (other := running(session, kind)) is not None:
            raise BusyError(
                f"A {kind} job is already running ({other.owner}); wait until it is done."
            )
        before = newest(session, 1, kind)
        crashed = bool(before) and outcome(before[0]) == "crashed"
        attempt = before[0].attempt + 1 if crashed else 1
        row = Job(kind=kind, status="running", owner=_me(), attempt=attempt)
        session.add(row)
        session.flush()
        handle = JobHandle(sessions, row.id, kind)
    alive = threading.Thread(target=handle.keep_alive, name=f"{kind} job", daemon=True)
    alive.start()
    try:
        yield handle
    except BaseException as error:
        if isinstance(error, AWAY):
            handle.result = {**(handle.result or {}), "away": True}
        _close(handle, "failed", _sentence(kind, error))
        raise
    else:
        _close(handle, "done", handle.message)
    finally:
        handle.end()
        alive.join()


def cancel(session: Session, job_id: int) -> Job:
    """Cancel a job. The process that runs it ends at its next step, and its result does not count.

    Raises:
        UnknownRecordError: there is no such job, or it does not run.
    """
    row = session.get(Job, job_id, with_for_update=True)
    if row is None or row.status != "running":
        raise UnknownRecordError(f"No job {job_id} is running; `maskloop jobs list` names them.")
    row.status, row.message, row.finished_at = "cancelled", "Cancelled by request.", now()
    return row


def get(session: Session, job_id: int) -> Job:
    """The job with this number.

    Raises:
        UnknownRecordError: there is none.
    """
    row = session.get(Job, job_id)
    if row is None:
        raise UnknownRecordError(f"There is no job {job_id}; `maskloop jobs list` names them.")
    return row


def running(session: Session, kind: str) -> Job | None:
    """The newest job of ``kind`` that is running in a living process, if any."""
    statement = select(Job).where(Job.kind == kind, Job.status == "running")
    found = session.scalars(statement.order_by(Job.id.desc()))
    return next((row for row in found if _alive(row)), None)


def done_by(session: Session, kind: str, message: str) -> Job | None:
    """The finished job of ``kind`` for the queue's ``message``, among the newest ``DELIVERIES``.

    A message may be delivered twice; a job that makes something new each time checks this first.
    """
    statement = select(Job).where(Job.kind == kind, Job.status == "done")
    newest = session.scalars(statement.order_by(Job.id.desc()).limit(DELIVERIES))
    return next((row for row in newest if (row.result or {}).get("message") == message), None)


def newest(session: Session, limit: int, kind: str | None = None) -> list[Job]:
    """The newest jobs, or the newest of one kind, newest first."""
    statement = select(Job).order_by(Job.id.desc()).limit(limit)
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    return list(session.scalars(statement))


def ended_before(session: Session, moment: datetime) -> list[int]:
    """Ids of the jobs that ended, in whatever way, and started before ``moment``."""
    statement = select(Job.id).where(Job.status != "running", Job.started_at < moment)
    return list(session.scalars(statement))


def delete(session: Session, ids: Collection[int]) -> None:
    """Remove jobs."""
    session.execute(remove(Job).where(Job.id.in_(ids)))


def outcome(row: Job) -> Literal["running", "done", "failed", "crashed"]:
    """The state of a job. "crashed" means that its process died without a message, whether or not
    the row says so already."""
    if row.status == "done":
        return "done"
    if row.status == "running":
        return "running" if _alive(row) else "crashed"
    return "crashed" if row.finished_at is None else "failed"  # or cancelled


def must_pause(session: Session, kind: str) -> bool:
    """Whether jobs of ``kind`` must wait because one failed less than ``RETRY_FAILED`` ago.

    Without this pause, a job that cannot succeed would start again at every check of the clock. A
    crashed job starts again at once; after ``MAX_CRASHES`` in a row, after pauses that grow from
    ``FIRST_PAUSE`` to ``RETRY_FAILED``.
    One that failed because a service was away never pauses the next: it may be back by now.
    """
    last = newest(session, MAX_CRASHES, kind)
    if not last or outcome(last[0]) not in ("failed", "crashed"):
        return False
    if (last[0].result or {}).get("away"):
        return False
    if last[0].finished_at is not None:
        return now() - last[0].finished_at < RETRY_FAILED
    keeps_crashing = len(last) == MAX_CRASHES and all(outcome(row) == "crashed" for row in last)
    pause = FIRST_PAUSE * int(2 ** max(last[0].attempt - MAX_CRASHES, 0))
    return keeps_crashing and now() - last[0].seen_at < min(pause, RETRY_FAILED)


def bury_dead(session: Session, kind: str | None = None) -> int:
    """Mark the jobs whose process died without a message as failed; return how many there were."""
    statement = select(Job).where(Job.status == "running")
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    dead = [row for row in session.scalars(statement) if not _alive(row)]
    for row in dead:
        row.status = "failed"
        row.message = CRASHED.format(kind=row.kind)
        # finished_at stays empty: the job did not finish, which tells a crash from a failure.
    return len(dead)


def _alive(row: Job) -> bool:
    if now() - row.seen_at >= SILENT_AFTER:  # dead, hung, or stopped by a signal
        return False
    host, _, process = (row.owner or "").rpartition(":")
    if host == socket.gethostname() and process.isdigit():
        try:
            os.kill(int(process), 0)  # signal 0 only asks whether the process exists
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
    return True


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
    # A run that was cancelled or overtaken leaves the row as the others see it.
    own = update(Job).where(Job.id == handle.id, Job.status == "running")
    with handle.sessions.begin() as session:
        session.execute(own.values(**values))
