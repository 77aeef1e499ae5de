from __future__ import annotations

import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import (
    BusyError,
    JobEndedError,
    LabelStudioError,
    NotEnoughDataError,
    ServiceError,
    UnknownRecordError,
)
from pipeline.record import jobs, schema
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.jobs import SILENT_AFTER, bury_dead, done_by, job, must_pause, running
from pipeline.record.tables import Job, now
from pipeline.settings import Settings


@pytest.fixture
def sessions(tmp_path: Path) -> sessionmaker[Session]:
    settings = Settings(home=tmp_path)
    schema.upgrade(settings)
    return sessions_on(make_engine(settings))


def only(sessions: sessionmaker[Session]) -> Job:
    with sessions() as session:
        return session.query(Job).one()


def test_a_job_that_ends_well_is_done_with_its_result(sessions: sessionmaker[Session]) -> None:
    with job(sessions, "encode") as handle:
        assert only(sessions).status == "running"
        handle.progress(3, 10)
        assert (only(sessions).done, only(sessions).total) == (3, 10)
        handle.progress(10, 10)
        handle.result, handle.message = {"encoded": 10}, "All encoded."
    row = only(sessions)
    assert (row.status, row.done, row.result, row.message) == (
        "done",
        10,
        {"encoded": 10},
        "All encoded.",
    )
    assert row.finished_at is not None


def test_an_error_of_ours_becomes_the_jobs_sentence(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(NotEnoughDataError), job(sessions, "finetune"):
        raise NotEnoughDataError("Too little; label more.")
    assert (only(sessions).status, only(sessions).message) == ("failed", "Too little; label more.")


def test_an_unforeseen_error_points_to_the_log(sessions: sessionmaker[Session]) -> None:
    with pytest.raises(ZeroDivisionError), job(sessions, "finetune"):
        _ = 1 / 0
    assert "ZeroDivisionError" in (only(sessions).message or "")
    assert "worker's log" in (only(sessions).message or "")


def test_progress_writes_at_most_now_and_then(sessions: sessionmaker[Session]) -> None:
    with job(sessions, "encode") as handle:
        for done in range(100):
            handle.progress(done, 1000)
        assert only(sessions).done == 0  # the first call; the others came too soon after it


def test_only_one_exclusive_job_runs(sessions: sessionmaker[Session]) -> None:
    with job(sessions, "finetune", exclusive=True):
        with (
            pytest.raises(BusyError, match="already running"),
            job(sessions, "finetune", exclusive=True),
        ):
            raise AssertionError("must not start")
        with job(sessions, "mirror", exclusive=True):
            pass  # another kind is free
    with job(sessions, "finetune", exclusive=True):
        pass


def test_a_job_of_a_dead_process_is_buried_at_once(sessions: sessionmaker[Session]) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with sessions.begin() as session:
        owner = f"{socket.gethostname()}:{ended.pid}"
        session.add(Job(kind="finetune", status="running", owner=owner))
    with job(sessions, "finetune", exclusive=True):
        pass
    with sessions() as session:
        dead = session.query(Job).order_by(Job.id).first()
        assert dead is not None
        assert (dead.status, dead.finished_at) == ("failed", None)


def test_a_job_on_another_machine_is_buried_after_its_silence(
    sessions: sessionmaker[Session],
) -> None:
    with sessions.begin() as session:
        session.add(Job(kind="finetune", status="running", owner="elsewhere:1"))
    with sessions.begin() as session:
        assert bury_dead(session) == 0
        row = running(session, "finetune")
        assert row is not None
        row.seen_at = now() - SILENT_AFTER - timedelta(seconds=1)
    with sessions.begin() as session:
        assert bury_dead(session) == 1
        assert running(session, "finetune") is None


def test_a_message_delivered_again_finds_what_it_did(sessions: sessionmaker[Session]) -> None:
    with job(sessions, "select") as handle:
        handle.result = {"round": 1, "message": "a"}
    with sessions() as session:
        found = done_by(session, "select", "a")
        assert found is not None
        assert found.id == handle.id
        assert done_by(session, "select", "b") is None
        assert done_by(session, "mirror", "a") is None


def test_a_running_job_gives_signs_of_life_without_progress(
    sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "ALIVE_EVERY", 0.05)
    with job(sessions, "finetune"):
        before = only(sessions).seen_at
        deadline = time.monotonic() + 10
        while only(sessions).seen_at == before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_cancelled_job_ends_at_its_next_step_and_stays_cancelled(
    sessions: sessionmaker[Session],
) -> None:
    with pytest.raises(JobEndedError, match="was cancelled"), job(sessions, "encode") as handle:
        with sessions.begin() as session:
            jobs.cancel(session, handle.id)
        handle.progress(5, 5)
    row = only(sessions)
    assert (row.status, row.message) == ("cancelled", "Cancelled by request.")
    with sessions() as session:
        assert must_pause(session, "encode")  # It does not start again by itself at once.
        with pytest.raises(UnknownRecordError, match="maskloop jobs list"):
            jobs.cancel(session, row.id)
        with pytest.raises(UnknownRecordError):
            jobs.cancel(session, 999)


def test_a_run_that_comes_back_after_another_took_over_writes_nothing(
    sessions: sessionmaker[Session],
) -> None:
    with pytest.raises(JobEndedError), job(sessions, "finetune", exclusive=True) as stopped:
        with sessions.begin() as session:  # It was stopped by a signal for long.
            session.get_one(Job, stopped.id).seen_at = now() - SILENT_AFTER
        with job(sessions, "finetune", exclusive=True) as other:
            assert other.id > stopped.id
            with sessions.begin() as session:
                other.hold(session)
        stopped.result = {"promoted": True}
        with sessions.begin() as session:
            stopped.hold(session)
    with sessions() as session:
        first, second = session.query(Job).order_by(Job.id)
        assert (first.status, first.result, first.attempt) == ("failed", None, 1)
        assert (second.status, second.attempt) == ("done", 2)


def test_a_service_that_was_away_pauses_no_job(sessions: sessionmaker[Session]) -> None:
    for error in (ServiceError("Redis is away; start it."), LabelStudioError("Away; start it.")):
        with pytest.raises(type(error)), job(sessions, "select") as handle:
            handle.result = {"project": 1}
            raise error
        with sessions() as session:
            assert not must_pause(session, "select")
    with sessions() as session:
        (row, _) = jobs.newest(session, 2, "select")
        assert (row.status, row.result) == ("failed", {"project": 1, "away": True})
