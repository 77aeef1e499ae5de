"""Who has been silent: the schedule, a worker, or a queue that nobody empties."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from pipeline.queue import QUEUES
from pipeline.record import heartbeats
from pipeline.record.tables import Heartbeat, now
from pipeline.runtime import Runtime
from pipeline.settings import Settings

POLL = 60.0
NAMES = set(QUEUES.values())


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Runtime(Settings(home=tmp_path), migrate=True) as runtime, runtime.sessions() as opened:
        yield opened


def age(session: Session, name: str, seconds: float) -> None:
    session.flush()
    session.get_one(Heartbeat, name).seen_at = now() - timedelta(seconds=seconds)
    session.flush()


def everyone(session: Session) -> None:
    heartbeats.note(session, heartbeats.SCHEDULE)
    heartbeats.note(session, heartbeats.RECONCILE)
    heartbeats.note(session, "worker worker@here", ["events", "encode"])
    heartbeats.note(session, "worker trainer@here", ["training"])


def silent(session: Session) -> str:
    return " ".join(heartbeats.silent(session, NAMES, POLL))


def test_nothing_is_said_while_all_are_alive(session: Session) -> None:
    everyone(session)
    assert silent(session) == ""


def test_an_empty_record_says_that_nothing_runs(session: Session) -> None:
    assert "The schedule has never given a sign of life" in silent(session)
    assert "No worker reads the queues encode, events, training" in silent(session)


def test_a_dead_schedule_is_told_with_its_remedy(session: Session) -> None:
    everyone(session)
    age(session, heartbeats.SCHEDULE, 2 * 3600 + 5)
    assert "The schedule gave its last sign of life 2 hours ago" in silent(session)
    assert "maskloop up" in silent(session)
    assert heartbeats.age(session, heartbeats.SCHEDULE) == pytest.approx(7205, abs=5)


def test_a_queue_without_a_living_worker_is_told(session: Session) -> None:
    everyone(session)
    age(session, "worker trainer@here", 61)
    assert "No worker reads the queue training; start" in silent(session)
    heartbeats.note(session, "worker other@there", ["training"])
    assert silent(session) == ""


def test_a_stuck_worker_shows_by_the_passes_that_do_not_end(session: Session) -> None:
    everyone(session)
    age(session, heartbeats.RECONCILE, 3 * POLL + 61)
    assert "Reconcile gave its last sign of life 4 minutes ago" in silent(session)


def test_a_sign_of_life_is_one_row_however_often_it_comes(session: Session) -> None:
    for _ in range(3):
        everyone(session)
    session.flush()
    assert len(heartbeats.ages(session)) == 4
    assert all(seconds < 60 for seconds in heartbeats.ages(session).values())


def test_workers_that_are_long_gone_are_forgotten(session: Session) -> None:
    everyone(session)
    age(session, "worker trainer@here", 2 * 86_400)
    age(session, heartbeats.SCHEDULE, 2 * 86_400)
    heartbeats.forget_lost(session)
    session.flush()
    assert "worker trainer@here" not in heartbeats.ages(session)
    assert heartbeats.SCHEDULE in heartbeats.ages(session)
