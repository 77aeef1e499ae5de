"""Findings of maskloop doctor that need no Label Studio, or take too long to bring about in one.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from model.errors import MaskloopError
from pipeline.cli import app as cli
from pipeline.doctor import clicks as doctor_clicks
from pipeline.doctor import label_studio as doctor_label_studio
from pipeline.doctor import machine as doctor_machine
from pipeline.doctor.case import Answer, Case, problem
from pipeline.doctor.checks import CHECKS, diagnose
from pipeline.doctor.label_studio import TESTED
from pipeline.errors import SettingsError
from pipeline.labelstudio.connect import WEBHOOK_ACTIONS, basic_auth_header
from pipeline.labelstudio.template import default_label_config
from pipeline.record import schema
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.tables import Annotation, Task
from pipeline.settings import HOME_VARIABLE, BackendSettings, FiftyOneSettings, Settings

URL = "http://127.0.0.1:9090"
REPOSITORY = Path(__file__).resolve().parents[4]


def case_of(settings: Settings, **known: Any) -> Case:
    """A case of project 7 that holds what Label Studio would have said."""
    made = Case(lambda: settings, 7)
    for name, value in known.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)  # where `make up` ran, settings come from its folder
    return Settings(
        home=tmp_path / "home",
        redis_url="redis://127.0.0.1:1/0",
        backend=BackendSettings(url=URL, password=SecretStr("secret")),
    )


def look(check: Callable[[Case], Answer], case: Case) -> tuple[str, str]:
    """A check's state and sentence; what it raises is a problem, as for ``diagnose``."""
    try:
        answer = check(case)
    except MaskloopError as error:
        answer = problem(str(error))
    assert answer.text.endswith(".")
    return answer.state, answer.text


@contextmanager
def server(answers: Mapping[str, tuple[int, Any]], password: str = "") -> Iterator[str]:
    """The address of a server with these answers by path; the password is asked on /ready only."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {}))
            header = basic_auth_header(BackendSettings(password=SecretStr(password)))
            if self.path == "/ready" and header.get("Authorization") != (
                self.headers["Authorization"] if password else None
            ):
                status, body = 401, {}
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_checks_need_only_what_is_looked_at_before() -> None:
    seen: set[str] = set()
    for check in CHECKS:
        assert set(check.needs) <= seen, check.name
        seen.add(check.name)


def test_settings_that_cannot_be_read_are_the_only_problem() -> None:
    def load() -> Settings:
        raise SettingsError("Settings cannot be used; mend them.")

    first, *others = diagnose(load)
    assert (first.state, first.text) == ("problem", "Settings cannot be used; mend them.")
    assert {other.state for other in others} == {"skipped"}
    assert all(other.text.startswith("Not looked at; first mend: ") for other in others)


def test_defaults_of_a_wrong_folder_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("MASKLOOP_")]:
        monkeypatch.delenv(name)
    state, said = look(doctor_machine.settings, case_of(settings))
    assert state == "advice"
    assert "name that folder in MASKLOOP_HOME" in said
    settings.home.mkdir()
    (settings.home / "maskloop.toml").touch()
    assert look(doctor_machine.settings, case_of(settings))[0] == "ok"


def test_the_command_lists_problems_and_ends_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv("MASKLOOP_LABEL_STUDIO__URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MASKLOOP_BACKEND__URL", "http://127.0.0.1:1")
    monkeypatch.setenv("MASKLOOP_REDIS_URL", "redis://127.0.0.1:1/0")
    for option in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["maskloop", "doctor", *option])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        out = capfd.readouterr().out
        if option:
            report = json.loads(out)
            assert report["problems"] == 4  # database, Redis, backend, Label Studio
            assert [found["check"] for found in report["findings"]] == [c.name for c in CHECKS]
        else:
            assert "4 problems; mend the first one first." in out
            assert "Keep label selected" in " ".join(out.split())
            assert not list(tmp_path.iterdir())  # looking makes no database


# --- database, disc, Redis, mongod ---


def test_a_database_is_missing_then_fine_then_old_then_too_new(settings: Settings) -> None:
    case = case_of(settings)
    assert "There is no database at" in look(doctor_machine.database, case)[1]
    schema.upgrade(settings)
    assert look(doctor_machine.database, case)[0] == "ok"
    for statement, said in (
        ("UPDATE alembic_version SET version_num = 'future'", "a newer maskloop; install that"),
        ("DELETE FROM alembic_version", "an older maskloop, or none; start maskloop again"),
    ):
        engine = make_engine(settings)
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()
        state, told = look(doctor_machine.database, case)
        assert state == "problem"
        assert said in told


def test_a_database_that_is_none_or_away_is_told(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("This is no database, though as long as the header of one is.")
    for url in (f"sqlite:///{tmp_path / 'file'}", "postgresql+psycopg://u:hidden@127.0.0.1:1/x"):
        case = case_of(settings.model_copy(update={"database_url": url}))
        state, said = look(doctor_machine.database, case)
        assert state == "problem"
        assert "cannot be opened" in said
        assert "hidden" not in said


def test_a_full_disc_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert look(doctor_machine.disc, case_of(settings))[1].endswith(f"{settings.home.resolve()}.")
    usage = type(shutil.disk_usage("/"))(10**12, 10**12, 5 * 10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    state, said = look(doctor_machine.disc, case_of(settings))
    assert state == "problem"
    assert "Only 0.5 GB are free under" in said
    assert "make room, or move the store with store_url" in said


def test_services_that_are_away_are_told(settings: Settings) -> None:
    state, said = look(doctor_machine.redis, case_of(settings))
    assert (state, "mend redis_url" in said) == ("problem", True)
    assert look(doctor_machine.mongod, case_of(settings))[0] == "skipped"
    set_to = FiftyOneSettings(database_uri="mongodb://127.0.0.1:1")
    state, said = look(
        doctor_machine.mongod, case_of(settings.model_copy(update={"fiftyone": set_to}))
    )
    assert (state, "mend fiftyone.database_uri" in said) == ("problem", True)


# --- the backend ---


@pytest.mark.parametrize(
    ("answers", "asks", "state", "said"),
    [
        ({"/ready": (200, {"model_version": "base"})}, "secret", "ok", "and serves base"),
        ({"/ready": (200, {"model_version": "base"})}, "other", "problem", "was started with othe"),
        ({"/ready": (200, {"model_version": "base"})}, "", "problem", "lets anyone in, though"),
        (
            {"/ready": (503, {"error": "No weights; add some."})},
            "secret",
            "problem",
            "is not ready (status 503: No weights; add some); look at its log",
        ),
        ({"/ready": (200, "<html>")}, "secret", "ok", "serves it says no more"),
        ({"/ready": (404, {})}, "secret", "advice", "is not maskloop's own server"),
        ({"/health": (500, {})}, "secret", "problem", "No backend answers at"),
    ],
)
def test_what_the_backend_answers(
    settings: Settings, answers: dict[str, Any], asks: str, state: str, said: str
) -> None:
    with server({"/health": (200, {}), **answers}, asks) as url:
        backend = BackendSettings(url=url, password=SecretStr("secret"))
        case = case_of(settings.model_copy(update={"backend": backend}))
        found = look(doctor_machine.backend, case)
    assert found[0] == state
    assert said in found[1]


# --- Label Studio ---


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        ((200, {"release": TESTED}), "ok", f"Label Studio {TESTED} answers"),
        ((200, {"release": "9.0"}), "advice", f"was tested with {TESTED}, so use that"),
        ((200, "<html>"), "problem", "is not Label Studio; set label_studio.url"),
        ((200, ["release"]), "problem", "is not Label Studio; set label_studio.url"),
        ((502, {}), "problem", "does not answer at"),
    ],
)
def test_what_label_studio_answers(
    settings: Settings, answer: tuple[int, Any], state: str, said: str
) -> None:
    with server({"/api/version": answer}) as url:
        changed = settings.label_studio.model_copy(update={"url": url})
        found = look(
            doctor_label_studio.reachable,
            case_of(settings.model_copy(update={"label_studio": changed})),
        )
    assert found[0] == state
    assert said in found[1]


def test_the_tested_label_studio_is_the_one_that_is_installed() -> None:
    pinned = (REPOSITORY / "constraints-label-studio.txt").read_text().splitlines()
    assert f"label-studio=={TESTED}" in pinned


def test_a_personal_token_that_ends_soon_is_told(settings: Settings) -> None:
    class Account:
        token_expires = datetime.now(UTC) + timedelta(days=2)

        def whoami(self) -> dict[str, Any]:
            return {"email": "a@b.c"}

    case = case_of(settings)
    case.runtime.label_studio = Account()
    state, said = look(doctor_label_studio.token, case)
    assert state == "advice"
    assert f"expires on {Account.token_expires:%d %B %Y}; make a new one" in said


def backend_row(**changes: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "url": URL,
        "state": "CO",
        "is_interactive": True,
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": "maskloop",
        "basic_auth_pass_is_set": True,
    } | changes


OTHER = "http://elsewhere:9090"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([backend_row(auth_method="NONE")], "is called without a password"),
        ([backend_row(basic_auth_user="me")], "is called with another user than backend.user"),
        ([backend_row(url=OTHER)], f"does not ask the backend {URL}; run `maskloop connect"),
        (
            [backend_row(url=OTHER), backend_row()],
            f"goes to {OTHER} instead of {URL}; switch off its",
        ),
    ],
)
def test_an_ml_backend_that_is_not_as_it_must_be_is_told(
    settings: Settings, rows: list[dict[str, Any]], said: str
) -> None:
    state, told = look(doctor_label_studio.ml_backend, case_of(settings, backends=rows))
    assert state == "problem"
    assert said in told


def test_another_backend_that_clicks_do_not_go_to_is_no_problem(settings: Settings) -> None:
    aside = backend_row(url=OTHER, is_interactive=False)
    for rows in ([aside, backend_row(url=f"{URL}/")], [backend_row(), backend_row(url=OTHER)]):
        assert look(doctor_label_studio.ml_backend, case_of(settings, backends=rows))[0] == "ok"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (backend_row(state="DI"), "though it answers from here; set backend.url to an address"),
        (backend_row(state="ER", error_message="It broke."), "an error (It broke); look at the"),
    ],
)
def test_a_backend_out_of_label_studios_reach_is_told(
    settings: Settings, row: dict[str, Any], said: str
) -> None:
    state, told = look(doctor_label_studio.reach, case_of(settings, backends=[row]))
    assert state == "problem"
    assert said in told


# --- what a click meets ---


def config_case(settings: Settings, *changes: tuple[str, str]) -> Case:
    xml = default_label_config()
    for old, new in changes:
        assert old in xml
        xml = xml.replace(old, new)
    return case_of(settings, project={"label_config": xml})


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ([], "ok", "Clicks ask for masks of Object, Other."),
        ([("BrushLabels", "Brush")], "problem", "no tag for the masks; add <BrushLabels>"),
        ([(' smart="false"', "")], "advice", "offered as a smart tool, whose strokes Label Studio"),
        (
            [('strokeWidth="6">', 'strokeWidth="6"><Label value="Background"/>')],
            "advice",
            'the labels Background of <KeyPointLabels name="click"> only take away from masks',
        ),
        (
            [
                (
                    '      <Label value="Other" background="#2a9d8f" hotkey="4" />\n      </Rect',
                    "      </Rect",
                )
            ],
            "advice",
            '<RectangleLabels name="box"> lacks the labels Other; add them',
        ),
        (
            [(' smart="true" smartOnly="true">', ' smart="true">')],
            "problem",
            '<RectangleLabels name="box"> is not smartOnly, so a label\'s key picks a tool that',
        ),
        (
            [("KeyPointLabels", "EllipseLabels")],
            "advice",
            "there is no <KeyPointLabels> to click with; add one",
        ),
        (
            [
                (
                    'name="mask" toName="image" smart="false">\n        <Label value="Object"',
                    'name="mask" toName="image" smart="false">\n        <Label value="Cat"',
                ),
                (
                    '<Label value="Other" background="#2a9d8f" hotkey="6" />\n      </Brush',
                    "</Brush",
                ),
            ],
            "problem",
            'shares no label with <BrushLabels name="mask">, so all that is asked',
        ),
        (
            [
                ('BrushLabels name="mask"', 'VectorLabels name="mask"'),
                ('hotkey="6" />\n      </Brush', 'hotkey="6" />\n      </Vector'),
            ],
            "problem",
            '<VectorLabels name="mask"> has no closable="true", so submitted paths stay open',
        ),
    ],
)
def test_what_a_labelling_config_lacks(
    settings: Settings, changes: list[tuple[str, str]], state: str, said: str
) -> None:
    found = look(doctor_clicks.labelling_config, config_case(settings, *changes))
    assert found[0] == state, found
    assert said in found[1]


class Tasks:
    """Label Studio's answers about tasks and clicks, as far as these checks ask."""

    def __init__(self, *data: dict[str, Any], answer: dict[str, Any] | None = None) -> None:
        self.rows = [type("Row", (), {"id": n, "data": each}) for n, each in enumerate(data, 1)]
        self.answer = answer

    def tasks(self, _project: int) -> Iterator[Any]:
        return iter(self.rows)

    def interactive(self, *_: Any) -> Any:
        return self.answer

    def close(self) -> None:
        pass


def clicks_case(settings: Settings, client: Tasks) -> Case:
    case = config_case(settings)
    case.backends = [backend_row()]
    case.runtime.label_studio = client
    return case


def test_a_task_without_an_image_and_a_project_without_tasks_are_told(settings: Settings) -> None:
    state, said = look(doctor_clicks.images, clicks_case(settings, Tasks({"photo": "/a.jpg"})))
    assert state == "problem"
    assert "Task 1 has no address in its field 'image'" in said
    state, said = look(doctor_clicks.images, clicks_case(settings, Tasks()))
    assert (state, "import images" in said) == ("advice", True)
    assert look(doctor_clicks.way_of_a_click, clicks_case(settings, Tasks()))[0] == "skipped"


def test_an_image_on_a_host_that_is_not_allowed_is_told(settings: Settings) -> None:
    case = clicks_case(settings, Tasks({"image": "http://far.example/a.jpg"}))
    state, said = look(doctor_clicks.images, case)
    case.close()
    assert state == "problem"
    assert "The image of task 1 cannot be used: " in said
    assert "images.allowed_hosts" in said


def test_a_click_that_gets_no_answer_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = clicks_case(settings, Tasks({}, answer={"errors": ["Read timed out."]}))
    state, said = look(doctor_clicks.way_of_a_click, broken)
    assert state == "problem"
    assert "Read timed out" in said
    assert "look at the backend's log" in said
    fine = Tasks({}, answer={"data": {"result": []}})
    assert look(doctor_clicks.way_of_a_click, clicks_case(settings, fine))[0] == "ok"
    monkeypatch.setattr(doctor_clicks, "SLOW_SECONDS", -1.0)
    assert look(doctor_clicks.way_of_a_click, clicks_case(settings, fine))[0] == "advice"


def test_images_that_wait_or_cannot_be_used_and_missing_ticks_are_told(settings: Settings) -> None:
    schema.upgrade(settings)
    case = case_of(settings)
    assert "No of 0 known images are encoded" in look(doctor_clicks.encoding, case)[1]
    sessions = sessions_on(make_engine(settings))
    with sessions.begin() as session:
        task = Task(ls_project_id=7, ls_task_id=41, url="/a.jpg")
        session.add_all([task, Task(ls_project_id=8, ls_task_id=1, url="", problem="Not ours.")])
        session.flush()
        when = datetime.now(UTC)
        for number, bare in enumerate([False, True]):
            session.add(
                Annotation(
                    task_id=task.id, ls_annotation_id=number, prompts_only=bare, ls_updated_at=when
                )
            )
    state, said = look(doctor_clicks.encoding, case)
    assert (state, "1 of 1 known images wait to be encoded" in said) == ("advice", True)
    state, said = look(doctor_clicks.ticks, case)
    assert state == "advice"
    assert "press the tick first (tasks 41)" in said
    with sessions.begin() as session:
        session.get_one(Task, task.id).problem = "The file is gone; upload it again."
        session.query(Annotation).update({"deleted": True})
    state, said = look(doctor_clicks.encoding, case)
    assert state == "problem"
    assert said.endswith(
        "1 of 1 images cannot be used; that of task 41: The file is gone; upload it again."
    )
    assert look(doctor_clicks.ticks, case)[0] == "ok"
    sessions().get_bind().dispose()
    case.close()


def test_a_webhook_for_all_actions_leaves_none_out(settings: Settings) -> None:
    class Hooks(Tasks):
        def webhooks(self, _project: int) -> list[dict[str, Any]]:
            return [
                {
                    "url": f"{URL}/webhook",
                    "is_active": True,
                    "send_payload": True,
                    "headers": basic_auth_header(settings.backend),
                    "send_for_all_actions": True,
                    "actions": [],
                }
            ]

    assert WEBHOOK_ACTIONS
    assert look(doctor_label_studio.webhook, clicks_case(settings, Hooks()))[0] == "ok"
