"""A guard over the whole suite: nothing slow happens while a transaction that writes is open.

On SQLite such a transaction keeps every other writer waiting, each click's log row included, and
on PostgreSQL it holds its rows and one of a few connections. So a thread whose transaction has
written must not send an HTTP request or a message, nor ask the store for anything.

A call that does fails at once with an AssertionError, and the test fails at its end, too: product
code may catch the error, or raise it in a thread that nobody looks at.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import httpcore
import httpx
import kombu
import pytest
import redis.connection
import urllib3.connectionpool
from sqlalchemy import Connection, Engine, event

from pipeline.storage.store import Store

# What begins to write or takes a lock that others wait for.
WRITES = re.compile(
    r"\s*(INSERT|UPDATE|DELETE|MERGE|BEGIN IMMEDIATE)\b"
    r"|.*\b(FOR UPDATE|FOR NO KEY UPDATE|pg_advisory_xact_lock)\b",
    re.IGNORECASE | re.DOTALL,
)
SHOWN = 80  # characters of a statement in a message

# What takes its time: (a class, its method, what calling it does).
SLOW: tuple[tuple[type, str, str], ...] = (
    (httpx.Client, "send", "an HTTP request was sent"),
    (httpx.AsyncClient, "send", "an HTTP request was sent"),
    (httpcore.ConnectionPool, "handle_request", "an HTTP request was sent"),
    (httpcore.AsyncConnectionPool, "handle_async_request", "an HTTP request was sent"),
    # requests and botocore send by this one.
    (urllib3.connectionpool.HTTPConnectionPool, "urlopen", "an HTTP request was sent"),
    (redis.connection.AbstractConnection, "connect", "Redis was asked"),
    (redis.connection.AbstractConnection, "send_packed_command", "Redis was asked"),
    (kombu.Producer, "publish", "a message was sent"),
    *((Store, name, f"Store.{name} was called") for name in ("read", "write", "exists")),
    *((Store, name, f"Store.{name} was called") for name in ("delete", "local_path")),
)


class TransactionGuard:
    """A plugin of pytest; it watches from ``install`` until ``remove``.

    Attributes:
        violations: what the present test did wrong, as sentences.
    """

    NAME = "maskloop-transactions"  # of the plugin

    def __init__(self) -> None:
        self.violations: list[str] = []
        # The thread that writes on each connection, and the statement it began with.
        self._writing: WeakKeyDictionary[Connection, tuple[int, str]] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._originals: list[tuple[type, str, Any]] = []

    def install(self) -> None:
        event.listen(Engine, "before_cursor_execute", self._executes)
        event.listen(Engine, "commit", self._ends)
        event.listen(Engine, "rollback", self._ends)
        for owner, name, what in SLOW:
            original = vars(owner)[name]
            self._originals.append((owner, name, original))
            setattr(owner, name, self._watched(original, what))

    def remove(self) -> None:
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)
        event.remove(Engine, "before_cursor_execute", self._executes)
        event.remove(Engine, "commit", self._ends)
        event.remove(Engine, "rollback", self._ends)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        try:
            return (yield)
        finally:
            done, self.violations = self.violations, []
            assert not done, "\n".join(done)

    def _executes(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if WRITES.match(statement):
            with self._lock:
                shown = " ".join(statement.split())[:SHOWN]
                self._writing.setdefault(connection, (threading.get_ident(), shown))

    def _ends(self, connection: Connection) -> None:
        with self._lock:
            self._writing.pop(connection, None)

    def _watched(self, original: Callable[..., Any], what: str) -> Callable[..., Any]:
        @functools.wraps(original)
        def watched(*arguments: Any, **options: Any) -> Any:
            self._check(what)
            return original(*arguments, **options)

        return watched

    def _check(self, what: str) -> None:
        with self._lock:
            ours = threading.get_ident()
            held = [statement for ident, statement in self._writing.values() if ident == ours]
        if held:
            said = (
                f"{what} inside a transaction that writes ({held[0]}); do it before the "
                "transaction, or after its end"
            )
            self.violations.append(said)
            raise AssertionError(said)
