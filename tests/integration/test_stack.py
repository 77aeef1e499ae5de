"""``maskloop up`` as a person uses it: start, look, Ctrl-C, start again, ``maskloop down``.

It is longer than 300 lines because all its tests share one stack, whose first start takes long.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import numpy as np
import psutil
import pytest
from sqlalchemy import func, select

from pipeline.images.catalog import image_key
from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.regions import brush_region
from pipeline.labelstudio.types import RegionJson
from pipeline.masks.coded import CodedMask
from pipeline.mirror.mongod import ping_mongod
from pipeline.record import images
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.tables import Embedding, Task
from pipeline.runtime import Runtime
from pipeline.settings import Settings
from pipeline.stack.home import prepare_home
from pipeline.stack.processes import leftovers, stop_all
from tests.annotator import Annotator
from tests.services.postgresql import DATABASE_VARIABLE
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


def test_down_stops_it_from_elsewhere_even_when_up_itself_was_killed(
    stack: Stack, settings: Settings
) -> None:
    stack.up(BUSY_RESUME_SECONDS)
    assert stack.running is not None
    submit_some_and_back_up(stack, settings)
    stack.running.kill()  # it cannot stop its services
    stack.running.wait()
    assert len(leftovers(stack.home)) >= 7
    done = stack.run("down")

    assert done.returncode == 0, done.stdout + done.stderr
    assert leftovers(stack.home) == []
    assert "Nothing of maskloop runs" in " ".join(stack.run("down").stdout.split())


def submit_some_and_back_up(stack: Stack, settings: Settings) -> None:
    """Take a backup while masks are submitted one after another."""
    project = settings.label_studio.project
    assert project is not None
    with Annotator(settings.label_studio) as client:
        waiting = [task.id for task in client.tasks(project)]
        client.create_annotation(waiting.pop(), [brush()])
        ended = threading.Event()

        def submit() -> None:
            while waiting and not ended.is_set():
                client.create_annotation(waiting.pop(), [brush()])

        annotator = threading.Thread(target=submit)
        annotator.start()
        done = stack.run("backup", str(stack.home.parent / "backup.tar"))
        ended.set()
        annotator.join()
    assert done.returncode == 0, done.stdout + done.stderr


def brush() -> RegionJson:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[10:30, 10:30] = True
    coded = CodedMask.of_mask(mask)
    return brush_region(
        region_id="r1", mask=coded, label="Object", from_name="mask", to_name="image"
    )


def test_a_backup_goes_on_elsewhere_with_every_mask(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Stack(
        stack.home.parent / "elsewhere",
        stack.environment | {"MASKLOOP_HOME": str(stack.home.parent / "elsewhere")},
        stack.output,
    )
    if os.environ.get(DATABASE_VARIABLE):
        elsewhere.environment["MASKLOOP_DATABASE_URL"] = Settings(home=elsewhere.home).sql_url
    stack.home.rename(stack.home.parent / "gone")  # nothing of it may be needed
    file = str(stack.home.parent / "backup.tar")
    assert elsewhere.run("verify", file).returncode == 0
    restored = elsewhere.run("restore", file)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    for name, value in elsewhere.environment.items():
        if name.startswith("MASKLOOP_"):
            monkeypatch.setenv(name, value)
    settings = prepare_home(elsewhere.home)
    try:
        elsewhere.up(BUSY_RESUME_SECONDS)
        check_health(settings)
        project = settings.label_studio.project
        assert project is not None
        with Annotator(settings.label_studio) as client:
            found = list(client.tasks(project))
            submitted = {task.id for task in found if task.annotations}
            assert len(found) == 12 and submitted
        with Runtime(settings) as runtime:
            deadline = time.monotonic() + HEAL_SECONDS
            while accepted_tasks(runtime) != submitted:  # Those after the copy come by reconcile.
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert elsewhere.run("mirror").returncode == 0
            with runtime.sessions() as session:
                image = images.get(session, images.shown(session)[0])
            path = runtime.store.local_path(image_key(image))
        app = f"http://{settings.fiftyone.host}:{settings.fiftyone.port}"
        picture = httpx.get(
            f"{app}/media",
            params={"filepath": str(path)},
            auth=settings.fiftyone_login,
            trust_env=False,
        )
        assert picture.content == path.read_bytes()
        assert embeddings(settings) >= 12
    finally:
        if elsewhere.running is not None:
            elsewhere.running.send_signal(signal.SIGINT)
            elsewhere.ended()
        stop_all(leftovers(elsewhere.home))


def accepted_tasks(runtime: Runtime) -> set[int]:
    with runtime.sessions() as session:
        return {row.ls_task_id for row in session.query(Task) if row.status == "accepted"}
