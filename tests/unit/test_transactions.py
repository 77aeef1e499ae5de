"""The guard of ``tests.transactions`` fires for each slow thing in a transaction that writes, and
for nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpcore
import httpx
import kombu
import pytest
import redis
import requests
from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import ServiceError
from pipeline.queue import Enqueuer
from pipeline.record.engine import lock
from pipeline.record.tables import Task
from pipeline.runtime import Runtime
from pipeline.settings import Settings
from pipeline.storage.store import Store
from tests.transactions import WRITES, TransactionGuard

NOWHERE = "http://127.0.0.1:1/"  # no port anybody listens on
NO_REDIS = "redis://127.0.0.1:1/0"
NOBODY_ANSWERS = (
    httpx.HTTPError,
    httpcore.NetworkError,
    requests.RequestException,
    redis.RedisError,
    ServiceError,
)


@pytest.fixture(autouse=True)
def guard(request: pytest.FixtureRequest) -> Iterator[TransactionGuard]:
    """The guard of this run, which must not hold against a test what it does on purpose."""
    found = request.config.pluginmanager.get_plugin(TransactionGuard.NAME)
    assert isinstance(found, TransactionGuard)
    yield found
    found.violations.clear()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(Settings(home=tmp_path, redis_url=NO_REDIS), migrate=True) as made:
        yield made


@pytest.fixture
def sessions(runtime: Runtime) -> sessionmaker[Session]:
    with runtime.sessions.begin() as session:
        session.add(task(1))
    return runtime.sessions


@pytest.fixture
def store(runtime: Runtime) -> Store:
    runtime.store.write("a", b"a")
    return runtime.store


def task(number: int) -> Task:
    return Task(ls_project_id=1, ls_task_id=number, url="a.png")


def insert(session: Session) -> None:
    session.add(task(2))
    session.flush()


WRITING: dict[str, Callable[[Session], object]] = {
    "insert": insert,
    "update": lambda session: session.execute(update(Task).values(problem="gone")),
    "delete": lambda session: session.execute(delete(Task)),
    "lock": lambda session: lock(session, "a"),
    "savepoint": lambda session: session.connection().begin_nested(),
}


def ask_asynchronously() -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(NOWHERE)

    # After browser tests Playwright's loop still runs in this thread, and asyncio starts no second
    # one beside it.
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        asyncio.run(ask())
    finally:
        asyncio._set_running_loop(running)


def ask_by_httpcore() -> None:
    with httpcore.ConnectionPool() as pool:
        pool.request("GET", NOWHERE)


def ask_by_requests() -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.get(NOWHERE)


def ask_redis() -> None:
    with redis.Redis.from_url(NO_REDIS) as client:
        client.ping()


def publish() -> None:
    with kombu.Connection("memory://") as connection, connection.Producer() as producer:
        producer.publish({}, routing_key="a")


def send() -> None:
    enqueuer = Enqueuer(Settings(redis_url=NO_REDIS))
    try:
        enqueuer.send("a")
    finally:
        enqueuer.close()


ASKING: dict[str, Callable[[], object]] = {
    "httpx": lambda: httpx.get(NOWHERE, trust_env=False),
    "httpx, asynchronously": ask_asynchronously,
    "httpcore": ask_by_httpcore,
    "requests": ask_by_requests,
    "Redis": ask_redis,
    "kombu": publish,
    "the queue": send,
}
STORING: dict[str, Callable[[Store], object]] = {
    "read": lambda store: store.read("a"),
    "write": lambda store: store.write("b", b"b"),
    "exists": lambda store: store.exists("a"),
    "delete": lambda store: store.delete("a"),
    "local_path": lambda store: store.local_path("a"),
}


@pytest.mark.parametrize("write", WRITING.values(), ids=WRITING)
def test_each_way_to_write_opens_a_transaction_that_must_be_short(
    sessions: sessionmaker[Session], store: Store, write: Callable[[Session], object]
) -> None:
    with sessions.begin() as session:
        write(session)
        with pytest.raises(AssertionError, match=r"Store\.exists was called inside a transaction"):
            store.exists("a")
    assert store.exists("a")


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING)
def test_nothing_is_sent_inside_a_transaction_that_writes(
    sessions: sessionmaker[Session], ask: Callable[[], object], guard: TransactionGuard
) -> None:
    with sessions.begin() as session:
        session.execute(select(Task))
        with suppress(*NOBODY_ANSWERS):
            ask()
        assert guard.violations == []
        insert(session)
        with pytest.raises(AssertionError, match="inside a transaction that writes .INSERT INTO"):
            ask()
    assert len(guard.violations) == 1


@pytest.mark.parametrize("ask", STORING.values(), ids=STORING)
def test_the_store_is_not_used_inside_a_transaction_that_writes(
    sessions: sessionmaker[Session], store: Store, ask: Callable[[Store], object]
) -> None:
    with sessions.begin() as session:
        session.execute(select(Task))
        insert(session)
        with pytest.raises(AssertionError, match="inside a transaction that writes"):
            ask(store)
    ask(store)


def test_readers_may_take_their_time(sessions: sessionmaker[Session], store: Store) -> None:
    with sessions() as session:
        session.execute(select(Task)).all()
        assert store.exists("a")


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_transaction_that_ended_keeps_nobody_waiting(
    sessions: sessionmaker[Session], store: Store, end: str
) -> None:
    with sessions() as session:
        insert(session)
        getattr(session, end)()
        assert store.exists("a")


def test_a_transaction_that_failed_keeps_nobody_waiting(
    sessions: sessionmaker[Session], store: Store
) -> None:
    with pytest.raises(IntegrityError), sessions.begin() as session:
        session.add(task(1))
    assert store.exists("a")


def test_the_transaction_of_another_thread_is_its_own(
    sessions: sessionmaker[Session], store: Store
) -> None:
    found: list[bool] = []
    with sessions.begin() as session:
        insert(session)
        thread = threading.Thread(target=lambda: found.append(store.exists("a")))
        thread.start()
        thread.join()
    assert found == [True]


def test_what_product_code_catches_is_held_against_the_test_all_the_same(
    sessions: sessionmaker[Session], runtime: Runtime, guard: TransactionGuard
) -> None:
    with sessions.begin() as session:
        insert(session)
        with suppress(Exception):
            runtime.store.read("a")
    assert len(guard.violations) == 1
    ending = guard.pytest_runtest_teardown()
    next(ending)
    with pytest.raises(AssertionError, match=r"Store\.read was called inside a transaction"):
        next(ending)


def test_after_the_transaction_a_message_may_be_sent(
    sessions: sessionmaker[Session], runtime: Runtime
) -> None:
    with sessions.begin() as session:
        insert(session)
    with pytest.raises(ServiceError, match="out of reach"):
        runtime.enqueuer.send("a")


def test_the_locks_of_postgresql_are_known() -> None:
    locking = select(Task).with_for_update()
    for lasting in (
        str(locking.compile(dialect=postgresql.dialect())),
        str(select(Task).with_for_update(key_share=True).compile(dialect=postgresql.dialect())),
        str(text("SELECT pg_advisory_xact_lock(:key)")),
        "BEGIN IMMEDIATE",
    ):
        assert WRITES.match(lasting), lasting
    for passing in (str(select(Task)), "PRAGMA foreign_keys = ON", "SELECT 'INSERT'"):
        assert not WRITES.match(passing), passing
