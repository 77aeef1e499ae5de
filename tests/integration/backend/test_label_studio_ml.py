"""label-studio-ml hosts maskloop: the real 1.0.9, and a replacement for 2.x.

1.0.9 runs in a separate environment, made and started by its own command line. No package registry
has 2.x, so ``label_studio_ml_2.py`` replaces its base class and its routes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.template import default_label_config
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.tables import Event
from tests.editor import (
    HEIGHT,
    WIDTH,
    WORDLESS_CONFIG,
    Editor,
    backend,
    box,
    click,
    disk,
    photograph,
    save,
    settings_for,
)
from tests.integration.backend.test_captures import requests, with_local_images
from tests.services.label_studio import free_port

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[3]
BIN = REPOSITORY / ".venv-label-studio-ml" / "bin"
START_SECONDS = 120
WEBHOOK_SECONDS = 60  # 1.0.9 starts a new Python, which imports torch, for each webhook
NO_BRUSH = '<View><Image name="image" value="$image"/></View>'
NUMBERS = count(10_000)  # ids of tasks that are in no capture
ORANGE = disk(0.5 * HEIGHT, 0.3 * WIDTH, 0.3 * HEIGHT, (HEIGHT, WIDTH))


@contextmanager
def hosted(
    command: Sequence[str | Path], port: int, home: Path, **more: str
) -> Iterator[httpx.Client]:
    """A server in the other environment, with its database and images in ``home``."""
    with log_of(home, port).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=home,
            env=environment(home) | more,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=address, timeout=100, trust_env=False) as client:
            deadline = time.monotonic() + START_SECONDS
            while not answers(client):
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(log_of(home, port).read_text()[-3000:])
                time.sleep(0.1)
            yield client
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # it has its own session, so the group holds only it
        process.wait(timeout=30)


def log_of(home: Path, port: int) -> Path:
    return home / f"{port}.log"


def environment(home: Path) -> dict[str, str]:
    settings = settings_for(home)
    return {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # `label-studio-ml start` calls python
        "MASKLOOP_HOME": str(home),
        "MASKLOOP_IMAGES__FILES_ROOT": str(home / "files"),
        "MASKLOOP_MODEL__DEVICE": "cpu",
        "MASKLOOP_DATABASE_URL": settings.sql_url,
        "MASKLOOP_REDIS_URL": settings.redis_url,
    }


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health", timeout=1).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def set_up(client: httpx.Client, config: str = default_label_config()) -> httpx.Response:
    body = {"project": "7.1795328252", "schema": config, "hostname": "", "access_token": ""}
    return client.post("/setup", json=body)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that docs/label-studio-ml.md tells people to make."""
    if not (BIN / "label-studio-ml").is_file():
        pytest.skip("needs label-studio-ml in .venv-label-studio-ml, which `make test` makes")
    folder = tmp_path_factory.mktemp("label-studio-ml")
    (folder / "segnext.py").write_text("from backend.label_studio_ml import MaskloopModel\n")
    command = [BIN / "label-studio-ml", "init", "hosted", "--script", "segnext.py:MaskloopModel"]
    subprocess.run(command, cwd=folder, env=environment(folder), check=True, capture_output=True)
    save(photograph(), folder / "files" / "balls.png")
    return folder


def version_1(folder: Path, port: int, **more: str) -> Any:
    command = [BIN / "label-studio-ml", "start", "hosted", "--host", "127.0.0.1", "-p", str(port)]
    return hosted([*command, "--log-level", "INFO"], port, folder, **more)


@pytest.fixture(scope="module", params=["1.0.9", "2.x"])
def client(request: pytest.FixtureRequest, folder: Path) -> Iterator[httpx.Client]:
    port = free_port()
    if request.param == "1.0.9":
        running = version_1(folder, port)
    else:
        script = REPOSITORY / "tests" / "integration" / "backend" / "label_studio_ml_2.py"
        running = hosted([BIN / "python", script, str(port)], port, folder)
    with running as client:
        assert set_up(client).status_code == 200
        yield client


@pytest.fixture
def editor(client: httpx.Client) -> Editor:
    """An annotator on a task that only this test uses."""
    return Editor(client, task=next(NUMBERS))


def test_a_click_gives_one_region_that_covers_the_object(editor: Editor) -> None:
    mask = editor.mask(click("a", 30, 50))

    assert (mask & ORANGE).sum() / (mask | ORANGE).sum() > 0.8


def test_clicks_that_follow_refine_the_same_region(editor: Editor) -> None:
    first = editor.ask(click("a", 30, 50))
    second = editor.ask(click("a", 30, 50), click("b", 82, 40, positive=False))

    assert first["id"] == second["id"]


def test_a_box_is_answered(editor: Editor) -> None:
    assert editor.mask(box("a", 5, 15, 50, 70)).any()


def test_our_own_backend_goes_on_where_this_one_was_left(editor: Editor, folder: Path) -> None:
    first = editor.ask(click("a", 30, 50))
    with backend(settings_for(folder)) as own:
        editor.client = own
        second = editor.ask(click("a", 30, 50), click("b", 82, 40, positive=False))

    assert first["id"] == second["id"]


def test_tasks_nobody_waits_for_are_answered_from_the_log(editor: Editor) -> None:
    region = editor.ask(click("a", 30, 50))
    body = editor.request(None)
    body["tasks"].append(dict(body["tasks"][0], id=next(NUMBERS)))
    stored, unseen = editor.client.post("/predict", json=body).json()["results"]

    assert [found["id"] for found in stored["result"]] == [region["id"]]
    assert stored["model_version"] == "base"
    assert unseen == []


def test_a_request_is_answered_by_its_own_labelling_config(editor: Editor) -> None:
    """1.0.9 keeps the config of the last /setup, which may be of another project."""
    config = WORDLESS_CONFIG.replace('name="mask"', 'name="cutout"')
    assert config != WORDLESS_CONFIG
    editor.config = config

    assert editor.ask(click("a", 30, 50))["from_name"] == "cutout"


def test_health(client: httpx.Client) -> None:
    assert client.get("/health").json()["status"] == "UP"


def test_setup_refuses_a_labelling_config_without_masks(client: httpx.Client) -> None:
    response = set_up(client, NO_BRUSH)
    assert set_up(client).status_code == 200

    assert response.status_code == 422
    assert_a_sentence(response)


def test_a_bad_task_gets_a_sentence_and_no_traceback(editor: Editor) -> None:
    gone = Editor(editor.client, url="/data/local-files/?d=gone.png", task=editor.task)
    broken = click("a", 30, 50)
    broken["value"]["x"] = None
    no_image = editor.request({"result": [click("a", 30, 50)]})
    no_image["tasks"][0]["data"] = {}

    for response, code in (
        (gone.send(click("a", 30, 50)), 424),
        (editor.send(broken), 422),
        (editor.client.post("/predict", json=no_image), 404),
    ):
        assert response.status_code == code, response.text
        assert_a_sentence(response)


def assert_a_sentence(response: httpx.Response) -> None:
    (sentence,) = response.json().values()
    assert sentence.endswith(".")
    assert "Traceback" not in response.text
    assert "Error" not in sentence


def test_a_webhook_reaches_the_log(
    client: httpx.Client, folder: Path, request: pytest.FixtureRequest
) -> None:
    """With 1.0.9, this includes a webhook that its own base class would ignore; 2.x refuses it."""
    version = request.node.callspec.params["client"]
    action = {"1.0.9": "ANNOTATIONS_DELETED", "2.x": "ANNOTATION_CREATED"}[version]
    number = next(NUMBERS)
    body = {
        "action": action,
        "annotation": {"id": number, "updated_at": "2026-11-22T10:00:00Z", "result": []},
        "project": {"id": 7, "label_config": default_label_config()},
    }
    assert client.post("/webhook", json=body).status_code == 201
    sessions = sessions_on(make_engine(settings_for(folder)))
    deadline = time.monotonic() + WEBHOOK_SECONDS
    kept: list[Event] = []
    while not kept and time.monotonic() < deadline:
        time.sleep(0.1)
        with sessions() as database:
            kept = list(database.scalars(select(Event).where(Event.action == action)))
    sessions().get_bind().dispose()

    assert [event.payload["annotation"]["id"] for event in kept] == [number]


def test_1_0_9_with_a_model_for_each_project_needs_no_setup(folder: Path) -> None:
    port = free_port()
    with version_1(folder, port, LABEL_STUDIO_ML_BACKEND_V2="") as client:
        for project in (7, 8):
            editor = Editor(client, task=next(NUMBERS), project=project)
            assert editor.mask(click("a", 30, 50)).any()

    # A process opens the database and loads the weights once, even if it makes many models.
    assert log_of(folder, port).read_text().count("Answering clicks with model version") == 1


@pytest.mark.parametrize("request_", requests("/predict"))
def test_a_captured_click(request_: dict[str, Any], client: httpx.Client, folder: Path) -> None:
    body = with_local_images(request_["body"], folder)
    response = client.post("/predict", json=body)

    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert len(results) == len(body["tasks"])
    regions = [region for answer in results if answer for region in answer["result"]]
    assert all(region["type"] == "brushlabels" for region in regions)
    assert all(mask is not None and mask.any() for mask in map(mask_of, regions))


@pytest.mark.parametrize("request_", requests("/setup"))
def test_a_captured_setup(request_: dict[str, Any], client: httpx.Client) -> None:
    assert client.post("/setup", json=request_["body"]).status_code == 200
