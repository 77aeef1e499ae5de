"""Keeps the services of the stack running: a dead or hung one is started again, with pauses.

Services restart alone. Only a core service, one without which nobody can label, ends the whole
stack, and only after several starts in a row that came to nothing.

supervisord 4.3 was tried for this: it starts a program that keeps dying every second for ever, and
takes a stopped one for a running one, so restarts with pauses, checks and the order of the start
would all be ours anyway. Circus was not run; by its documentation it is driven through sockets
without a login, which would have to be closed off first.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from pipeline.errors import ServiceError
from pipeline.stack.processes import Processes
from pipeline.stack.service import Service

TRIES = 5  # starts in a row after which a core service never answered
LONGEST_PAUSE = 30.0  # seconds between two starts of a service that keeps dying
STEADY_SECONDS = 20.0  # for which a service must answer before its earlier deaths are forgotten
LOGS_SECONDS = 60.0  # between two looks at the sizes of logs
PROBE_SECONDS = 2.0  # between two questions whether a service still answers

Tell = Callable[[str], None]  # called with a sentence for the person who started the stack


@dataclass
class _Watch:
    """What is known of one service. Times are those of ``time.monotonic``."""

    service: Service
    started: float
    answered: float | None  # the last answer since the start; None: none yet
    deaths: int = 0  # in a row, without a steady time between them
    failures: int = 0  # starts in a row after which it never answered
    restart_at: float | None = None  # it is down and will be started then
    asked: float = 0.0
    question: Future[bool] | None = None


class Supervisor:
    """Watches services that were started. As a context manager it ends its own threads.

    Args:
        processes: the running services; all of them are ready.
        tell: hears of each restart.
    """

    def __init__(self, processes: Processes, tell: Tell) -> None:
        self._processes = processes
        self._tell = tell
        moment = time.monotonic()
        self._looked_at_logs = moment
        self._watches = {
            service.name: _Watch(service, moment, moment) for service in processes.services()
        }
        # Each service has a thread, because a question to a hung one takes until its time limit.
        self._threads = ThreadPoolExecutor(max(1, len(self._watches)), "probe")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def tend(self) -> None:
        """Look at every service once, and start those that must be started again. It returns soon;
        call it a few times each second.

        Raises:
            ServiceError: ``TRIES`` starts of a core service in a row came to nothing.
        """
        if time.monotonic() - self._looked_at_logs >= LOGS_SECONDS:
            self._looked_at_logs = time.monotonic()
            self._processes.rotate_logs()
        for watch in self._watches.values():
            if watch.restart_at is not None:
                if time.monotonic() >= watch.restart_at:
                    self._start(watch)
            elif (death := self._processes.death(watch.service.name)) is not None:
                self._plan(watch, f"stopped ({death})")
            else:
                self._ask(watch)
                if (seconds := self._silence(watch)) is not None:
                    self._processes.kill(watch.service.name)
                    self._plan(watch, f"did not answer for {seconds:.0f} s")

    def _start(self, watch: _Watch) -> None:
        watch.restart_at, watch.question = None, None
        watch.started, watch.answered = time.monotonic(), None
        try:
            self._processes.start(watch.service)
        except ServiceError as error:
            self._plan(watch, f"cannot be started ({error})")

    def _plan(self, watch: _Watch, what: str) -> None:
        """Plan the next start of a service that is down."""
        watch.deaths += 1
        watch.failures = watch.failures + 1 if watch.answered is None else 0
        name, log = watch.service.name, self._processes.log(watch.service.name)
        if watch.service.core and watch.failures >= TRIES:
            raise ServiceError(
                f"{name} {what}, and {TRIES} starts in a row came to nothing; read {log}, then "
                "start again: nothing that was saved is lost."
            )
        pause = 0.0 if watch.deaths == 1 else min(2.0 ** (watch.deaths - 1), LONGEST_PAUSE)
        watch.restart_at = time.monotonic() + pause
        when = "now" if not pause else f"in {pause:.0f} s"
        self._tell(f"{name} {what}; it is started again {when}. Its log is {log}.")

    def _ask(self, watch: _Watch) -> None:
        """Take the answer to the last question whether a service is alive, or ask again."""
        moment = time.monotonic()
        if watch.question is None:
            if moment - watch.asked >= PROBE_SECONDS:
                watch.asked = moment
                watch.question = self._threads.submit(watch.service.is_alive)
            return
        if not watch.question.done():
            return
        if watch.question.exception() is None and watch.question.result():
            if watch.answered is None:
                self._tell(f"{watch.service.name} is ready again.")
            watch.answered = moment
            if moment - watch.started > STEADY_SECONDS:
                watch.deaths = 0
        watch.question = None

    def _silence(self, watch: _Watch) -> float | None:
        """For how many seconds a service has been silent, if that is so long that it hangs."""
        moment = time.monotonic()
        needed = [self._watches[name] for name in watch.service.needs if name in self._watches]
        if any(other.restart_at is not None or self._is_late(other) for other in needed):
            # It cannot answer without the other one, so its time begins when that one is back.
            if watch.answered is None:
                watch.started = moment
            else:
                watch.answered = moment
            return None
        if watch.answered is None:
            seconds, limit = moment - watch.started, watch.service.start_seconds
        else:
            seconds, limit = moment - watch.answered, watch.service.hung_seconds
        return seconds if seconds > limit else None

    @staticmethod
    def _is_late(watch: _Watch) -> bool:
        return watch.answered is None or time.monotonic() - watch.answered > 3 * PROBE_SECONDS
