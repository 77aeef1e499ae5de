"""A cache in memory with a size limit. A value that several threads need at once is made once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Cache(Generic[K, V]):
    """The most recently used values that together take at most ``max_bytes``.

    Args:
        max_bytes: limit for all values together; a single larger value is returned but not kept.
        size: bytes that a value takes.
    """

    def __init__(self, max_bytes: int, size: Callable[[V], int]) -> None:
        self._max_bytes = max_bytes
        self._size = size
        self._bytes = 0
        self._entries: OrderedDict[K, V] = OrderedDict()
        self._flights: dict[K, Future[V]] = {}
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of ``key``; it is made when it is not in memory.

        Threads that ask for a value while it is being made wait for it. When ``make`` raises, each
        of them gets the error, and the next call tries again.
        """
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not mine:
            return flight.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            flight.set_exception(error)
            raise
        with self._lock:
            self._put(key, value)
            del self._flights[key]
        flight.set_result(value)
        return value

    def drop(self, key: K) -> None:
        """Remove a value from memory; nothing happens when it is not there."""
        with self._lock:
            if key in self._entries:
                self._bytes -= self._size(self._entries.pop(key))

    def _put(self, key: K, value: V) -> None:
        size = self._size(value)
        if size > self._max_bytes:
            return
        self._bytes += size
        self._entries[key] = value
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= self._size(oldest)
