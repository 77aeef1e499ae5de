"""``maskloop jobs``: what is listed, cancelled and tried again, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.errors import RequestError, ServiceError, UnknownRecordError
from pipeline.record import retries
from pipeline.record.tables import Event, Job, Task
from pipeline.runtime import Runtime
from pipeline.settings import HOME_VARIABLE, Settings


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv("MASKLOOP_REDIS_URL", "redis://127.0.0.1:1/0")  # no server listens there
    with Runtime(Settings(home=tmp_path), migrate=True) as opened:
        assert opened.sessions
        yield opened


def jobs(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["jobs", *arguments])


def test_nothing_has_run_yet(runtime: Runtime) -> None:
    assert "No job has run yet." in jobs("list").stdout


def test_jobs_and_what_was_given_up_are_listed(runtime: Runtime) -> None:
    with runtime.sessions.begin() as session:
        session.add(Job(kind="finetune", status="failed", message="Too little.", attempt=2))
        most = retries.MOST_ATTEMPTS
        session.add(Event(key="k", action="TEST", payload={}, problem="No id.", attempts=most))
        task = Task(ls_project_id=1, ls_task_id=7, url="/x", problem="No image.", attempts=most)
        session.add(task)
    found = json.loads(jobs("list", "--json").stdout)
    assert found["jobs"][0]["attempt"] == 2 and found["jobs"][0]["message"] == "Too little."
    assert found["events"][0]["why"] == "No id."
    assert found["images"][0]["task"] == 7
    shown = jobs("list").stdout
    assert "Events given up" in shown and "Images given up" in shown


def test_a_running_job_is_cancelled_and_another_is_not(runtime: Runtime) -> None:
    with runtime.sessions.begin() as session:
        session.add(Job(kind="finetune", status="running", owner="elsewhere:1"))
    assert "finetune job 1 is cancelled" in jobs("cancel", "1").stdout
    again = jobs("cancel", "1")
    assert again.exit_code == 1
    assert isinstance(again.exception, UnknownRecordError)
    assert json.loads(jobs("list", "--json").stdout)["jobs"][0]["state"] == "cancelled"


@pytest.mark.parametrize(
    ("what", "error"),
    [("nonsense", RequestError), ("99", UnknownRecordError), ("1", RequestError)],
)
def test_what_cannot_be_tried_again_is_told(
    runtime: Runtime, what: str, error: type[Exception]
) -> None:
    with runtime.sessions.begin() as session:
        session.add(Job(kind="propose", status="failed"))
    result = jobs("retry", what)
    assert result.exit_code == 1
    assert isinstance(result.exception, error)


def test_given_up_events_are_released_even_while_redis_is_away(runtime: Runtime) -> None:
    with runtime.sessions.begin() as session:
        most = retries.MOST_ATTEMPTS
        session.add(Event(key="k", action="TEST", payload={}, problem="No id.", attempts=most))
    assert isinstance(jobs("retry", "events").exception, ServiceError)
    with runtime.sessions() as session:
        assert retries.quarantined_events(session, 5) == []  # The schedule finds it now.


def test_one_check_of_doctor_brings_those_that_it_needs(runtime: Runtime) -> None:
    result = CliRunner().invoke(app, ["doctor", "--check", "schedule", "--json"])
    found = json.loads(result.stdout)["findings"]
    assert [each["check"] for each in found] == ["settings", "database", "schedule"]
    assert result.exit_code == 1  # Nothing runs here.
    unknown = CliRunner().invoke(app, ["doctor", "--check", "nonsense"])
    assert "There is no check 'nonsense'" in str(unknown.exception)
