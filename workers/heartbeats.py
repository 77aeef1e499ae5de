"""Signs of life of the schedule and of each worker, as rows (``pipeline.record.heartbeats``).

They are written by the process that would be missed: Celery's beat, and the parent of a worker's
children, which goes on while a child trains for an hour.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any

from celery.beat import PersistentScheduler
from celery.signals import heartbeat_sent
from sqlalchemy.exc import SQLAlchemyError

from model.errors import MaskloopError
from pipeline.record import heartbeats
from pipeline.record.engine import make_engine, sessions_on
from pipeline.settings import load_settings

log = logging.getLogger(__name__)


class Scheduler(PersistentScheduler):  # type: ignore[misc]  # Celery has no types
    """Celery's own scheduler, which also says that it is alive."""

    _noted = float("-inf")

    def tick(self, *args: Any, **kwargs: Any) -> float:
        moment = time.monotonic()
        if moment - self._noted >= heartbeats.BEAT_SECONDS:
            self._noted = moment
            note(heartbeats.SCHEDULE)
        seconds: float = super().tick(*args, **kwargs)
        return min(seconds, heartbeats.BEAT_SECONDS)


class WorkerPulse:
    """Notes that this worker is alive, called by Celery every two seconds.

    Celery calls it in the thread that forks the children, so no child is forked in the middle of a
    write, which could leave a lock of SQLite taken for ever in that child.
    """

    def __init__(self) -> None:
        self._noted = float("-inf")

    def __call__(self, sender: Any = None, **_: object) -> None:
        moment = time.monotonic()
        if moment - self._noted < heartbeats.BEAT_SECONDS:
            return
        self._noted = moment
        eventer = sender.eventer
        queues = eventer.app.amqp.queues.consume_from
        note(f"{heartbeats.WORKER}{eventer.hostname}", list(queues))


def note(name: str, queues: Collection[str] = ()) -> None:
    """Write a sign of life. A database that does not answer is logged and is no error: the part is
    alive, and others see that the database is not."""
    try:
        engine = make_engine(load_settings())
        try:
            with sessions_on(engine).begin() as session:
                heartbeats.note(session, name, queues)
        finally:
            # The next child is forked from this process and must inherit no connection.
            engine.dispose()
    except (SQLAlchemyError, MaskloopError) as error:
        log.warning("The sign of life of %s could not be written: %s", name, error)


pulse = WorkerPulse()
heartbeat_sent.connect(pulse)
