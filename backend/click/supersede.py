"""The latest click wins: what an older request of the same annotator has left to do is not done."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

MOST = 1000  # sessions remembered


class Latest:
    """Counts the requests of each session: Label Studio's page drops the answer to an older one."""

    def __init__(self) -> None:
        self._newest: OrderedDict[Hashable, int] = OrderedDict()
        self._lock = threading.Lock()
        self._count = 0

    def enter(self, session: Hashable) -> Callable[[], bool]:
        """Begin a request; gives what says whether a newer one of its session has begun."""
        with self._lock:
            self._count += 1
            mine = self._newest[session] = self._count
            self._newest.move_to_end(session)
            if len(self._newest) > MOST:
                self._newest.popitem(last=False)

        def stale() -> bool:
            return self._newest.get(session, mine) != mine

        return stale
