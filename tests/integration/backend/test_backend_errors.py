"""Every error of a click is reported in a sentence, and nothing is lost."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpx
import pytest

from pipeline.record.tables import Task
from pipeline.settings import Settings
from tests.editor import (
    ON_BALL,
    ON_BALL_TOO,
    Editor,
    click,
    log_of,
    rows,
)

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("/data/local-files/?d=notes.png", 422),
        ("/data/local-files/?d=nowhere.png", 424),
        ("/data/local-files/?d=../secret.png", 424),
        ("/data/local-files/?d=/etc/passwd", 424),
        ("ftp://example.org/x.png", 424),
        ("http://192.0.2.1/x.png", 424),
        ("", 404),
    ],
)
def test_an_image_that_cannot_be_had_is_one_sentence(editor: Editor, url: str, code: int) -> None:
    editor.url = url
    response = editor.send(click("a", *ON_BALL))
    assert response.status_code == code
    sentence = response.json()["error"]
    assert sentence.endswith(".")
    assert "Traceback" not in sentence


def test_the_reason_stays_with_the_task(settings: Settings, editor: Editor) -> None:
    editor.url = "/data/local-files/?d=notes.png"
    sentence = editor.send(click("a", *ON_BALL)).json()["error"]
    (task,) = [task for task in rows(settings, Task) if task.ls_task_id == editor.task]
    assert task.problem == sentence
    assert not log_of(settings, editor)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"tasks": [], "project": 1, "params": {"context": {"result": []}}}',
        b'{"tasks": [{}], "project": "1.2"}',
        b'{"tasks": [{"id": "7"}], "project": "1.2"}',
        b'{"tasks": [7], "project": "x"}',
        b'{"tasks": [{"id": 1}], "project": NaN}',
        b'{"tasks": [{"id": 1}], "project": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_nonsense_is_refused_with_a_sentence(client: httpx.Client, body: bytes) -> None:
    response = client.post("/predict", content=body)
    if response.status_code != 200:
        assert response.status_code in (404, 422)
        assert response.json()["error"].endswith(".")


@pytest.mark.parametrize(
    "value",
    [{"x": "a", "y": 1}, {"x": None, "y": 1}, {"y": 1}, {"x": True, "y": 1}],
)
def test_a_click_without_a_place_is_refused(editor: Editor, value: dict[str, Any]) -> None:
    mark = click("a", 1, 1)
    mark["value"] = value
    assert editor.send(mark).status_code == 422


def test_a_damaged_draft_costs_no_click_its_answer(editor: Editor) -> None:
    first = editor.ask(click("a", *ON_BALL))
    for damaged in (
        {"id": first["id"], "value": [1]},
        {"id": first["id"], "type": {}, "value": {"rle": "x"}},
        dict(first, value={"rle": [300]}),
        dict(first, original_width=10**9),
        {"id": "v", "type": "vectorlabels", "value": {"closed": 1, "vertices": [{"x": "a"}] * 3}},
    ):
        editor.draft = [damaged, dict(damaged, id="other", score=1, from_name="mask")]
        mark = click(f"b{id(damaged)}", *ON_BALL_TOO)
        assert editor.send(mark).status_code == 200


def test_text_that_no_database_takes_is_refused(editor: Editor) -> None:
    editor.url = "/data/local-files/?d=\0.png"
    assert editor.send(click("a", *ON_BALL)).status_code == 404


def test_a_config_without_a_brush_is_named(editor: Editor) -> None:
    editor.config = "<View><Image name='image' value='$image'/></View>"
    response = editor.send(click("a", *ON_BALL))
    assert response.status_code == 422
    assert "BrushLabels" in response.json()["error"]


def test_errors_are_counted(client: httpx.Client, editor: Editor) -> None:
    editor.url = "/data/local-files/?d=nowhere.png"
    editor.send(click("a", *ON_BALL))
    text = client.get("/metrics").text
    assert 'maskloop_errors_total{kind="ImageSourceError",route="/predict"}' in text
    assert "maskloop_predict_seconds_bucket" in text


@pytest.mark.parametrize("route", ["/setup", "/webhook", "/predict"])
def test_what_is_nested_without_end_is_refused(client: httpx.Client, route: str) -> None:
    for depth in (900, 950, 970, 980, 990, 100_000):
        deep = b"[" * depth + b"]" * depth
        body = b'{"action": "ANNOTATION_CREATED", "schema": %b, "annotation": {"id": %b}}'
        response = client.post(route, content=body % (deep, deep))
        assert response.status_code < 500, (depth, response.text)


def test_who_goes_away_in_the_middle_of_a_request_is_no_error(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line:
        line.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert client.get("/health").status_code == 200
    assert "broke inside" not in caplog.text
