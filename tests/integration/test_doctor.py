"""maskloop doctor on a real Label Studio, backend, Redis and worker, without and with faults.

It is longer than 300 lines because all its tests share one Label Studio and one backend.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
import uvicorn
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.http.app import create_app
from pipeline.cli import app as cli
from pipeline.doctor.checks import CHECKS, Finding, diagnose
from pipeline.labelstudio.connect import connect
from pipeline.labelstudio.template import default_label_config
from pipeline.precompute.encode import encode_project
from pipeline.queue import QUEUES
from pipeline.record import heartbeats
from pipeline.record.tables import Interaction
from pipeline.settings import Settings
from tests.annotator import Annotator, local_file_url
from tests.loop import Loop, disk_picture, make_loop
from tests.services.label_studio import (
    WARM_START_SECONDS,
    LabelStudioProcess,
    free_port,
    start_label_studio,
)
from tests.services.redis import RedisServer, redis_server
from tests.services.worker import PATIENCE, Beat, Worker, environment, wait_until

__all__ = ["redis_server"]

pytestmark = pytest.mark.integration

# The checks that wait seconds for workers have a separate test.
QUICK = [check for check in CHECKS if check.name not in ("Redis", "workers")]


@dataclass
class World:
    """A working stack; a test breaks one thing and repairs it again."""

    process: LabelStudioProcess
    loop: Loop
    client: Annotator
    worker: Worker
    project: int

    @property
    def settings(self) -> Settings:
        return self.loop.runtime.settings

    def problems(self, settings: Settings | None = None) -> dict[str, str]:
        """The problems that doctor finds, by check."""
        findings = diagnose(lambda: settings or self.settings, self.project, QUICK)
        return {found.check: found.text for found in findings if found.state == "problem"}

    def repair(self) -> None:
        connect(self.client, self.settings, self.project)


def with_(settings: Settings, section: str, **changes: Any) -> Settings:
    changed = getattr(settings, section).model_copy(update=changes)
    return settings.model_copy(update={section: changed})


@contextmanager
def backend(settings: Settings) -> Iterator[None]:
    """A real backend at the port of the settings."""
    config = uvicorn.Config(
        create_app(settings), port=settings.backend.port, log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        assert server.started, "the backend did not start; see the log above"
        yield
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("doctor")
    process = start_label_studio(folder)
    worker = beat = None
    try:
        server, port = process.server, free_port()
        loop = make_loop(
            folder,
            redis_url=redis_server.url,
            label_studio={"url": server.url, "token": server.token},
            backend={"url": f"http://127.0.0.1:{port}", "port": port, "password": "secret"},
            images={"files_root": server.files},
        )
        client = Annotator(loop.runtime.settings.label_studio)
        project = client.create_project("doctor", default_label_config())
        (server.files / "disk.png").write_bytes(disk_picture(1)[0])
        client.import_tasks(project, [{"data": {"image": local_file_url("disk.png")}}])
        encode_project(loop.runtime, project)
        worker, beat = Worker(loop, "events,encode,training"), Beat(loop)
        wait_until(loop, says_nothing, worker)
        yield World(process, loop, client, worker, project)
        client.close()
        loop.runtime.close()
    finally:
        for each in (worker, beat):
            if each is not None:
                each.stop()
        process.stop()


def says_nothing(session: Session) -> bool:
    """Whether the schedule and the worker have given their first signs of life."""
    return not heartbeats.silent(session, set(QUEUES.values()), 3600)


@pytest.fixture
def sound(world: World) -> Iterator[World]:
    """The world with its backend running and connected, even if an earlier test broke it."""
    with backend(world.settings):
        world.repair()
        yield world


def test_nothing_is_wrong_with_a_sound_stack(
    sound: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    wait_for_worker(sound)
    for name, value in environment(sound.loop).items():
        monkeypatch.setenv(name, value)
    settings = sound.settings.backend
    monkeypatch.setenv("MASKLOOP_BACKEND__URL", settings.url)
    monkeypatch.setenv("MASKLOOP_BACKEND__PASSWORD", settings.password.get_secret_value())
    before = sound.client.backends(sound.project), sound.client.webhooks(sound.project)
    monkeypatch.setattr(
        sys, "argv", ["maskloop", "doctor", "--project", str(sound.project), "--json"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    report = json.loads(capfd.readouterr().out)
    states = {found["check"]: found["state"] for found in report["findings"]}
    states.pop("way of a click")  # it is advice when the machine is busy
    assert {name for name, state in states.items() if state != "ok"} == {"mongod"}, report
    assert (report["problems"], ended.value.code) == (0, 0)
    # The checks have made and changed nothing.
    after = sound.client.backends(sound.project), sound.client.webhooks(sound.project)
    assert [without_times(rows) for rows in after] == [without_times(rows) for rows in before]
    with sound.loop.runtime.sessions() as session:
        assert session.scalars(select(Interaction)).all() == []


def wait_for_worker(world: World) -> None:
    deadline = time.monotonic() + PATIENCE
    while not world.loop.runtime.enqueuer.listening(seconds=1):
        assert time.monotonic() < deadline, world.worker.log.read_text()


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: row[name] for name in row if not name.endswith("_at")} for row in rows]


# --- Tokens ---


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("f" * 40, r"refuses the token \(Invalid token\); set label_studio.token"),
        ("", "needs a token; set label_studio.token"),
        (
            jwt.encode({"exp": datetime.now(UTC) - timedelta(days=1)}, "x" * 32),
            r"personal access token in label_studio.token expired on .*; make a new one",
        ),
        (
            jwt.encode({"exp": datetime.now(UTC) + timedelta(days=99)}, "x" * 32),
            r"refuses the token \(Token is invalid\); set label_studio.token",
        ),
    ],
)
def test_a_token_that_does_not_do_is_told(world: World, token: str, said: str) -> None:
    findings = diagnose(
        lambda: with_(world.settings, "label_studio", token=SecretStr(token)), world.project, QUICK
    )
    told = {found.check: found for found in findings}
    assert told["token"].state == "problem"
    assert_says(told["token"], said)
    assert told["webhook"] == Finding("webhook", "skipped", "Not looked at; first mend: project.")


def assert_says(found: Finding, pattern: str) -> None:
    with pytest.raises(AssertionError, match=pattern):
        raise AssertionError(found.text)


def test_legacy_tokens_that_were_switched_off_are_told(world: World) -> None:
    legacy = {"Authorization": f"Token {world.process.server.token}"}
    with httpx.Client(base_url=world.process.server.url, trust_env=False) as http:
        personal = http.post("/api/token/", headers=legacy).raise_for_status().json()["token"]
        switch(http, legacy, on=False)
        try:
            assert "legacy token authentication has been disabled" in world.problems()["token"]
            other = with_(world.settings, "label_studio", token=SecretStr(personal))
            assert "token" not in world.problems(other)
        finally:
            access = http.post("/api/token/refresh/", json={"refresh": personal}).json()["access"]
            switch(http, {"Authorization": f"Bearer {access}"}, on=True)


def switch(http: httpx.Client, headers: dict[str, str], *, on: bool) -> None:
    body = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": on}
    http.post("/api/jwt/settings", headers=headers, json=body).raise_for_status()


# --- The backend and the webhook in Label Studio ---


def without_webhook(world: World) -> None:
    (row,) = world.client.webhooks(world.project)
    world.client.delete_webhook(row["id"])


def webhook_without_header(world: World) -> None:
    (row,) = world.client.webhooks(world.project)
    world.client.update_webhook(row["id"], url=row["url"], headers={})


def webhook_off_and_without_an_action(world: World) -> None:
    (row,) = world.client.webhooks(world.project)
    actions = [action for action in row["actions"] if action != "ANNOTATION_UPDATED"]
    world.client.update_webhook(row["id"], url=row["url"], is_active=False, actions=actions)


def not_interactive(world: World) -> None:
    (row,) = world.client.backends(world.project)
    world.client.update_backend(row["id"], **backend_fields(world), is_interactive=False)


def attached_twice(world: World) -> None:
    world.client.add_backend(**backend_fields(world), is_interactive=True)


def not_attached(world: World) -> None:
    for row in world.client.backends(world.project):
        world.client.delete_backend(row["id"])


def backend_fields(world: World) -> dict[str, Any]:
    settings = world.settings.backend
    return {
        "url": settings.url,
        "project": world.project,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": settings.user,
        "basic_auth_pass": settings.password.get_secret_value(),
    }


@pytest.mark.parametrize(
    ("damage", "check", "said"),
    [
        (without_webhook, "webhook", "has no webhook to"),
        (webhook_without_header, "webhook", "has no Authorization header"),
        (
            webhook_off_and_without_an_action,
            "webhook",
            "is switched off and leaves out ANNOTATION_UPDATED",
        ),
        (not_interactive, "ML backend", '"Interactive preannotations" is off'),
        (attached_twice, "ML backend", "is attached 2 times"),
        (not_attached, "ML backend", "does not ask the backend"),
    ],
)
def test_what_connect_would_set_right_is_told(
    sound: World, damage: Callable[[World], None], check: str, said: str
) -> None:
    damage(sound)
    problems = sound.problems()
    assert list(problems) == [check]
    assert said in problems[check]
    assert problems[check].endswith(f"; run `maskloop connect --project {sound.project}`.")
    sound.repair()
    assert sound.problems() == {}


def test_a_labelling_config_whose_tools_ask_no_model_is_told(sound: World) -> None:
    changes = [
        (' smart="true" smartOnly="true" strokeWidth', "is no smart tool, so its clicks ask no"),
        (' smartOnly="true" strokeWidth', "is not smartOnly, so a label's key picks a tool"),
    ]
    for removed, said in changes:
        config = default_label_config().replace(removed, " strokeWidth")
        sound.client.update_project(sound.project, label_config=config)
        problems = sound.problems()
        assert list(problems) == ["labelling config"]
        assert said in problems["labelling config"]
        assert 'give it smart="true" smartOnly="true"' in problems["labelling config"]
    sound.client.update_project(sound.project, label_config=default_label_config())


# --- The backend ---


def test_a_backend_that_is_down_is_told(world: World) -> None:
    findings = {
        found.check: found for found in diagnose(lambda: world.settings, world.project, QUICK)
    }
    assert findings["backend"].state == "problem"
    assert "No backend answers at" in findings["backend"].text
    assert findings["reach"].state == "skipped"
    assert findings["reach"].text == "Not looked at; first mend: backend."


def test_a_host_that_label_studio_does_not_know_is_told(world: World) -> None:
    elsewhere = with_(world.settings, "backend", url="http://nowhere.invalid:9090")
    said = world.problems(elsewhere)["address"]
    assert "does not know the host of ML backend http://nowhere.invalid:9090; set" in said


def test_a_changed_backend_password_is_told_for_each_side(world: World) -> None:
    changed = with_(world.settings, "backend", password=SecretStr("changed"))
    with backend(world.settings):
        world.repair()
    with backend(changed):
        # First only the backend has the new password. Then the settings have it too, but Label
        # Studio still has the old one.
        assert "refuses the user and password of the settings" in world.problems()["backend"]
        problems = world.problems(changed)
    assert set(problems) == {"reach", "webhook"}
    assert "with a password that the backend refuses; run `maskloop conn" in problems["reach"]
    assert "has an Authorization header that the backend refuses" in problems["webhook"]


# --- Images, workers, networks ---


def test_an_image_that_is_lost_is_told(sound: World) -> None:
    picture = sound.process.server.files / "disk.png"
    kept = picture.read_bytes()
    picture.unlink()
    try:
        problems = sound.problems()
    finally:
        picture.write_bytes(kept)
    assert list(problems) == ["images"]
    assert "disk.png' cannot be read" in problems["images"]
    assert "check that it lies in images.files_root" in problems["images"]


def test_private_networks_that_are_banned_are_told_with_the_switch(sound: World) -> None:
    sound.process.stop()
    sound.process.overrides["USE_DEFAULT_BANNED_SUBNETS"] = "true"
    sound.process.start(WARM_START_SECONDS)
    problems = sound.problems()
    assert list(problems) == ["address"]
    assert "start Label Studio with USE_DEFAULT_BANNED_SUBNETS=false" in problems["address"]


def test_a_queue_without_a_worker_is_told(world: World) -> None:
    world.worker.stop()
    checks = [check for check in CHECKS if check.name in ("settings", "Redis", "workers")]
    findings = diagnose(lambda: world.settings, world.project, checks)
    assert [found.state for found in findings if found.check != "settings"] == ["ok", "problem"]
    assert "No worker takes messages from encode, events, training; start one" in findings[-1].text
