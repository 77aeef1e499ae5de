"""A newer click replaces an older one of the same annotator, whose remaining work is skipped."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from model.errors import MaskloopError

MOST = 1000  # sessions remembered


class SupersededError(MaskloopError):
    """The answer is no longer needed, because the annotator has clicked again."""

    def __init__(self) -> None:
        super().__init__("A newer click has replaced this one; wait for its answer.")


@dataclass(frozen=True, eq=False)
class Turn:
    """One request of a session. It tells the steps of a click whether anybody still waits."""

    _newest: Mapping[Hashable, int]
    _session: Hashable
    _number: int

    def is_over(self) -> bool:
        """Whether a newer request of the session has begun."""
        return self._newest.get(self._session, self._number) != self._number

    def check(self) -> None:
        """Raise SupersededError when a newer request of the session has begun."""
        if self.is_over():
            raise SupersededError


class Latest:
    """Counts the requests of each session: Label Studio's page drops the answer to an older one."""

    def __init__(self) -> None:
        self._newest: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = threading.Lock()
        self._count = 0

    def enter(self, session: Hashable) -> Turn:
        """Begin a request of a session."""
        with self._lock:
            self._count += 1
            mine = self._newest[session] = self._count
            self._newest.move_to_end(session)
            if len(self._newest) > MOST:
                self._newest.popitem(last=False)
        return Turn(self._newest, session, mine)
