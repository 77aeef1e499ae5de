"""Sends the messages of webhooks to the workers, in one thread, so that a slow Redis holds up
nothing else.

The events are rows in SQL before they come here. What this process does not send, because it ends
or because Redis is away for long, reconcile finds there.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Self

from sqlalchemy.exc import DBAPIError

from backend.process.metrics import Metrics
from pipeline.errors import ServiceError
from pipeline.queue import FINETUNE, HANDLE_EVENT
from pipeline.record import events
from pipeline.runtime import Runtime

log = logging.getLogger(__name__)

TRAINING = "START_TRAINING"
MOST_WAITING = 10_000  # events whose messages wait for Redis; reconcile finds the others
PAUSE_SECONDS = 2.0  # between two tries while Redis does not answer
CLOSE_SECONDS = 5.0  # for the message that is being sent when the process ends


class Outbox:
    """The events whose messages are not sent yet, oldest first. As a context manager it sends them
    in a thread until it is closed."""

    def __init__(self, runtime: Runtime, metrics: Metrics) -> None:
        self._runtime = runtime
        self._metrics = metrics
        self._waiting: deque[int] = deque(maxlen=MOST_WAITING)
        self._new = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._new.set()
        self._thread.join(CLOSE_SECONDS)

    def put(self, event_id: int) -> None:
        """Have the message of a kept event sent; returns at once."""
        self._waiting.append(event_id)
        self._new.set()

    def send(self, event_id: int) -> None:
        """Send the message of a kept event now.

        Raises:
            ServiceError: Redis is out of reach; reconcile finds the event.
            DBAPIError: the database does not answer.
        """
        runtime = self._runtime
        with runtime.sessions() as session:
            event = events.get(session, event_id)
        if event.action == TRAINING:
            runtime.enqueuer.send(FINETUNE, True)
            with runtime.sessions.begin() as session:
                events.close(session, event_id, None)
        else:
            runtime.enqueuer.send(HANDLE_EVENT, event_id)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._new.wait()
            self._new.clear()
            while self._waiting and not self._ended.is_set():
                event_id = self._waiting.popleft()
                try:
                    self.send(event_id)
                except (ServiceError, DBAPIError) as error:
                    self._metrics.not_enqueued.inc()
                    log.warning("Event %d is not sent yet: %s", event_id, error)
                    if len(self._waiting) < MOST_WAITING:
                        self._waiting.appendleft(event_id)
                    self._ended.wait(PAUSE_SECONDS)
                except Exception:
                    log.exception("Event %d cannot be sent; reconcile handles it.", event_id)
