"""``maskloop up`` as a person uses it: start, look, Ctrl-C, start again, ``maskloop down``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from pipeline.labelstudio.client import LabelStudio
from pipeline.mirror.mongod import ping_mongod
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.tables import Embedding
from pipeline.settings import Settings
from pipeline.stack.home import prepare_home
from pipeline.stack.processes import leftovers
from tests.services.stack import FIRST_START_SECONDS, Stack, made_stack

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RESUME_SECONDS = 60  # the promised time, on a machine that is not busy
BUSY_RESUME_SECONDS = 300
HEAL_SECONDS = 180  # until a dead or hung service answers again, on a busy machine
# Each service, and words of its command line.
SERVICES = {
    "Redis": ["redis-server"],
    "mongod": ["mongod", "--dbpath"],
    "FiftyOne": ["pipeline.mirror.app"],
    "worker": ["celery", "worker@maskloop"],
    "trainer": ["celery", "trainer@maskloop"],
    "beat": ["celery", " beat "],
    "Label Studio": ["label-studio", "start"],
    "backend": ["uvicorn"],
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with made_stack(tmp_path_factory.mktemp("stack")) as made:
        yield made


@pytest.fixture
def settings(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The stack's settings, read as its processes read them."""
    for name, value in stack.environment.items():
        if name.startswith("MASKLOOP_"):
            monkeypatch.setenv(name, value)
    return prepare_home(stack.home)


def found(stack: Stack, words: list[str]) -> list[psutil.Process]:
    """The running processes of the stack whose command line holds all these words."""
    processes = []
    for process in leftovers(stack.home):
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(word in line for word in words):
                processes.append(process)
    return processes


def wait_for_words(stack: Stack, words: str, times: int = 1) -> None:
    """Return when the stack has said these words so often."""
    deadline = time.monotonic() + HEAL_SECONDS
    while (said := " ".join(stack.said().split())).count(words) < times:
        assert time.monotonic() < deadline, f"{words!r} is not in: {said}"
        time.sleep(0.2)


def embeddings(settings: Settings) -> int:
    with sessions_on(make_engine(settings))() as session:
        return session.scalar(select(func.count()).select_from(Embedding)) or 0


def check_health(settings: Settings) -> None:
    password = settings.backend.password.get_secret_value()
    auth = (settings.backend.user, password)
    with httpx.Client(timeout=20, trust_env=False, follow_redirects=True) as client:
        assert client.get(f"{settings.label_studio.url}/health").status_code == httpx.codes.OK
        assert client.get(f"{settings.backend.url}/ready", auth=auth).status_code == httpx.codes.OK
        refused = client.get(f"{settings.backend.url}/ready", auth=("maskloop", "guess"))
        assert refused.status_code == httpx.codes.UNAUTHORIZED
        page = f"http://{settings.fiftyone.host}:{settings.fiftyone.port}"
        assert client.get(page, auth=settings.fiftyone_login).status_code == httpx.codes.OK
        assert client.get(page).status_code == httpx.codes.UNAUTHORIZED
    ping_mongod(settings.fiftyone.database_uri)


def test_the_first_start_makes_a_project_ready_to_click_in(
    stack: Stack, request: pytest.FixtureRequest
) -> None:
    stack.up(FIRST_START_SECONDS)
    settings: Settings = request.getfixturevalue("settings")

    check_health(settings)
    said = stack.said()  # as in a narrow terminal, where no text to copy may be cut
    fiftyone = f"http://{settings.fiftyone.host}:{settings.fiftyone.port}"
    page = f"{settings.label_studio.url}/projects/{settings.label_studio.project}"
    for address in (page, settings.backend.url, fiftyone):
        assert address in said
    assert settings.label_studio.password.get_secret_value() in said
    with LabelStudio(settings.label_studio) as client:
        project = settings.label_studio.project
        assert project is not None
        assert len(list(client.tasks(project))) == 12
        assert [row["url"] for row in client.backends(project)] == [settings.backend.url]
        (webhook,) = client.webhooks(project)
        assert webhook["headers"]["Authorization"].startswith("Basic ")
    assert embeddings(settings) == 12


def test_a_second_up_at_once_is_one_sentence(stack: Stack) -> None:
    done = stack.run("up")

    assert done.returncode == 1
    text = " ".join((done.stdout + done.stderr).split())
    assert "already runs on" in text
    assert "maskloop down" in text
    assert "Traceback" not in text


def test_an_interrupt_stops_every_process_and_nothing_else(stack: Stack) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    assert stack.running is not None
    family = psutil.Process(stack.running.pid).children(recursive=True)
    assert len(family) >= 7
    stack.running.send_signal(signal.SIGINT)
    try:
        assert stack.ended() == 0
        _gone, alive = psutil.wait_procs(family, timeout=2)
        assert alive == []
        assert leftovers(stack.home) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_taken_port_is_one_sentence_and_starts_nothing(stack: Stack) -> None:
    port = int(stack.environment["MASKLOOP_BACKEND__PORT"])
    with socket.create_server(("127.0.0.1", port)):
        done = stack.run("up")

    assert done.returncode == 1
    text = " ".join((done.stdout + done.stderr).split())
    assert f"Port {port}, which backend needs, is already in use" in text
    assert "port_offset" in text
    assert "Traceback" not in text
    assert leftovers(stack.home) == []


def test_the_second_start_resumes_within_a_minute_and_heals_itself(
    stack: Stack, settings: Settings
) -> None:
    idle = os.getloadavg()[0] <= (os.cpu_count() or 1)
    seconds = stack.up(BUSY_RESUME_SECONDS)

    assert seconds < RESUME_SECONDS or not idle
    check_health(settings)
    with LabelStudio(settings.label_studio) as client:
        assert settings.label_studio.project is not None
        assert len(list(client.tasks(settings.label_studio.project))) == 12
        assert len(client.projects()) == 1
    assert embeddings(settings) == 12
    for service, words in SERVICES.items():
        for process in found(stack, words):
            process.kill()
        wait_for_words(stack, f"{service} stopped (SIGKILL")
        wait_for_words(stack, f"{service} is ready again")
    check_health(settings)
    (schedule,) = found(stack, ["beat"])
    schedule.suspend()  # hung and not dead: only its heartbeat tells
    (backend,) = found(stack, ["uvicorn"])
    backend.suspend()
    for service in ("backend", "beat"):
        wait_for_words(stack, f"{service} did not answer for")
        wait_for_words(stack, f"{service} is ready again", times=2)
    check_health(settings)
    stack.running.send_signal(signal.SIGINT)
    assert stack.ended() == 0
    assert leftovers(stack.home) == []


def test_down_stops_it_from_elsewhere_even_when_up_itself_was_killed(stack: Stack) -> None:
    stack.up(BUSY_RESUME_SECONDS)
    assert stack.running is not None
    stack.running.kill()  # it cannot stop its services
    stack.running.wait()
    assert len(leftovers(stack.home)) >= 7
    done = stack.run("down")

    assert done.returncode == 0, done.stdout + done.stderr
    assert leftovers(stack.home) == []
    assert "Nothing of maskloop runs" in " ".join(stack.run("down").stdout.split())
