"""The whole backend on a real database, the shipped model and real image files."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from model import checkpoints, second_look
from model.embedding import Embedding
from model.prediction import Window
from model.prompts import Box, Click, Prompt
from model.segnext import SegNext
from pipeline.masks import clean, iou
from pipeline.regions import mask_of
from pipeline.settings import Settings
from pipeline.tables import Event, Interaction, Task
from tests.editor import (
    HEIGHT,
    WIDTH,
    Editor,
    backend,
    box,
    click,
    disk,
    photograph,
    save,
    settings_for,
)

pytestmark = pytest.mark.integration

ON_BALL, ON_BALL_TOO, ON_BLUE = (30, 50), (24, 42), (80, 40)
BALL = disk(0.5 * HEIGHT, 0.3 * WIDTH, 0.3 * HEIGHT, (HEIGHT, WIDTH))
BLUE = disk(0.4 * HEIGHT, 0.8 * WIDTH, 0.18 * HEIGHT, (HEIGHT, WIDTH))
AROUND_BALL, AROUND_BLUE = (7.5, 20, 45, 60), (66.5, 22, 27, 36)  # x, y, width, height


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    made = settings_for(home)
    save(photograph(), home / "files" / "balls.png")
    save(photograph(balls=1), home / "files" / "one-ball.png")
    save(photograph(), home / "files" / "turned.jpg", orientation=6)
    save(photograph(), home / "files" / "upright.jpg")
    (home / "files" / "notes.png").write_text("This is no picture.")
    (home / "secret.png").write_bytes((home / "files" / "balls.png").read_bytes())
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with backend(settings) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> SegNext:
    return checkpoints.load(checkpoints.default_checkpoint())


@pytest.fixture
def editor(client: httpx.Client) -> Editor:
    _TASKS[0] += 1
    return Editor(client, task=_TASKS[0])


_TASKS = [100]  # each test its own task, so that no log reaches another


def rows(settings: Settings, kind: Any) -> list[Any]:
    engine = create_engine(settings.sql_url)
    with Session(engine) as session:
        found = list(session.scalars(select(kind)))
    engine.dispose()
    return found


def log_of(settings: Settings, editor: Editor) -> list[Interaction]:
    tasks = {task.id for task in rows(settings, Task) if task.ls_task_id == editor.task}
    return [row for row in rows(settings, Interaction) if row.task_id in tasks]


# --- clicks ---


def test_a_click_gets_the_object_in_the_shape_label_studio_draws(editor: Editor) -> None:
    region = editor.ask(click("a", *ON_BALL))
    assert region["type"] == "brushlabels"
    assert (region["from_name"], region["to_name"]) == ("mask", "image")
    assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
    assert region["value"]["brushlabels"] == ["Object"]
    assert 0 < region["score"] <= 1


def test_the_mask_is_the_models_own(editor: Editor, model: SegNext) -> None:
    def stored(pixels: NDArray[np.uint8]) -> Embedding:
        return Embedding.from_bytes(model.encode(pixels).to_bytes())

    def answered(prompt: Prompt) -> NDArray[np.bool_]:
        image = photograph()

        def crop(window: Window) -> Embedding:
            return stored(image[window.slices])

        return second_look.answer(model, prompt, stored(image), crop).mask()

    place = Click(row=0.5 * HEIGHT, col=0.3 * WIDTH)
    expected = clean(answered(Prompt((place,))), [(place.row, place.col)])
    assert np.array_equal(editor.mask(click("a", *ON_BALL)), expected)
    around = Box(top=0.25 * HEIGHT, left=0.25 * WIDTH, bottom=0.75 * HEIGHT, right=0.5 * WIDTH)
    expected = clean(answered(Prompt((), (around,))))
    boxed = Editor(editor.client, task=editor.task + 10_000)
    assert np.array_equal(boxed.mask(box("r", 25, 25, 25, 50)), expected)


def test_a_second_click_goes_on_with_the_same_region(settings: Settings, editor: Editor) -> None:
    first = editor.ask(click("a", *ON_BALL))
    second = editor.ask(click("a", *ON_BALL), click("b", 80, 90, positive=False))
    assert first["id"] == second["id"]
    log = log_of(settings, editor)
    assert [[(p["id"], p["positive"]) for p in row.prompts] for row in log] == [
        [("a", True)],
        [("a", True), ("b", False)],
    ]
    assert log[0].prompts[0]["x"] == pytest.approx(0.3 * WIDTH)
    assert log[0].prompts[0]["y"] == pytest.approx(0.5 * HEIGHT)
    assert bytes(log[1].rle) == bytes(second["value"]["rle"])


def test_the_same_request_gets_the_same_answer_and_no_second_row(
    settings: Settings, editor: Editor
) -> None:
    assert editor.ask(click("a", *ON_BALL)) == editor.ask(click("a", *ON_BALL))
    assert len(log_of(settings, editor)) == 1


def test_another_label_is_another_region(editor: Editor) -> None:
    ball = editor.ask(click("a", *ON_BALL))
    editor.draft = [ball]
    other = editor.ask(click("b", *ON_BALL_TOO, label="Other"))
    assert ball["id"] != other["id"]
    assert other["value"]["brushlabels"] == ["Other"]


def test_a_restart_forgets_nothing(settings: Settings, editor: Editor) -> None:
    marks = [click("a", *ON_BALL), click("b", *ON_BALL_TOO), click("c", 80, 90, positive=False)]
    for count in (1, 2):
        editor.ask(*marks[:count])
    with backend(settings) as another:
        elsewhere = Editor(another, task=editor.task)
        there = elsewhere.ask(*marks)
    same_marks_here = Editor(editor.client, task=editor.task + 10_000)
    for count in (1, 2, 3):
        here = same_marks_here.ask(*marks[:count])
    assert there["value"] == here["value"]


def test_an_undone_click_leaves_no_trace(editor: Editor) -> None:
    a, b, c = click("a", *ON_BALL), click("b", *ON_BLUE), click("c", *ON_BALL_TOO)
    editor.ask(a)
    editor.ask(a, b)
    undone = editor.ask(a, c)
    clean = Editor(editor.client, task=editor.task + 10_000)
    clean.ask(a)
    assert undone["value"] == clean.ask(a, c)["value"]


def test_auto_accept_repairs_one_region_in_place(editor: Editor) -> None:
    """Each request has its last click only; the draft follows seconds later, or not yet."""
    first = editor.ask(click("a", *ON_BALL))
    second = editor.ask(click("b", *ON_BALL_TOO))  # the draft is not saved yet
    editor.draft = [second]
    third = editor.ask(click("c", 36, 56))
    assert first["id"] == second["id"] == third["id"]


def test_a_lone_negative_click_cuts_into_the_accepted_region(
    settings: Settings, editor: Editor
) -> None:
    editor.draft = [editor.ask(click("a", *ON_BALL))]
    mask = mask_of(editor.draft[0])
    assert mask is not None
    row, column = np.argwhere(mask)[mask.sum() // 2]
    place = 100 * (column + 0.5) / WIDTH, 100 * (row + 0.5) / HEIGHT
    repaired = editor.ask(click("b", *place, positive=False))
    assert repaired["id"] == editor.draft[0]["id"]
    last = log_of(settings, editor)[-1]
    assert [(p["id"], p.get("carried", False)) for p in last.prompts] == [("a", True), ("b", False)]


def test_a_click_with_a_label_masks_do_not_have_is_a_negative_one(editor: Editor) -> None:
    editor.config = editor.config.replace(
        'strokeWidth="6">', 'strokeWidth="6"><Label value="Background"/>'
    )
    assert editor.ask(click("z", *ON_BLUE, label="Background")) is None
    first = editor.ask(click("a", *ON_BALL))
    second = editor.ask(click("n", 80, 90, label="Background"))
    assert second["id"] == first["id"]
    assert second["value"]["brushlabels"] == ["Object"]


def test_the_exif_turn_does_not_move_the_mask(client: httpx.Client) -> None:
    upright = Editor(client, url="/data/local-files/?d=upright.jpg", task=1)
    turned = Editor(client, url="/data/local-files/?d=turned.jpg", task=2)
    assert iou(upright.mask(click("a", *ON_BALL)), turned.mask(click("a", *ON_BALL))) > 0.95


def test_a_reply_never_outgrows_its_limit(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, max_reply_bytes=3000)
    save(photograph(), tmp_path / "files" / "balls.png")
    with backend(settings) as small:
        response = Editor(small).send(click("a", *ON_BALL))
    assert response.status_code == 200
    assert len(response.content) <= 3000


# --- objects: what the shipped weights see ---


def test_a_click_and_a_box_cover_the_object(editor: Editor) -> None:
    editor.url = "/data/local-files/?d=one-ball.png"
    assert iou(editor.mask(click("a", *ON_BALL)), BALL) > 0.8
    editor.url = "/data/local-files/?d=balls.png"
    assert iou(editor.mask(box("b", *AROUND_BALL)), BALL) > 0.8
    assert iou(editor.mask(box("c", *AROUND_BLUE)), BLUE) > 0.8


def test_another_object_is_another_region_and_mask(editor: Editor) -> None:
    ball = editor.ask(box("a", *AROUND_BALL))
    editor.draft = [ball]
    blue = editor.ask(box("b", *AROUND_BLUE))
    assert blue["id"] != ball["id"]
    first, second = mask_of(ball), mask_of(blue)
    assert first is not None
    assert second is not None
    assert iou(first, second) < 0.05


def test_telling_which_region_a_click_means_costs_no_second_decoding(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor.draft = [editor.ask(box("a", *AROUND_BALL))]
    decoded = []
    decode = SegNext.decode_batch

    def counted(self: SegNext, *given: Any) -> Any:
        decoded.append(given)
        return decode(self, *given)

    monkeypatch.setattr(SegNext, "decode_batch", counted)
    blue = editor.ask(box("b", *AROUND_BLUE))
    assert blue["id"] != editor.draft[0]["id"]
    assert len(decoded) == 1


def test_a_negative_click_takes_away(editor: Editor) -> None:
    ball, away = click("a", *ON_BALL), click("b", 36, 56, positive=False)
    before, after = editor.mask(ball), editor.mask(ball, away)
    place = int(0.56 * HEIGHT), int(0.36 * WIDTH)
    assert before[place]
    assert not after[place]
    assert after.sum() < before.sum()


# --- no click ---


def test_words_the_model_does_not_know_and_an_empty_context_get_an_empty_result(
    editor: Editor,
) -> None:
    text = {"id": "t", "type": "textarea", "from_name": "text", "value": {"text": ["a ball"]}}
    assert editor.send().json() == {"results": [{"result": []}]}
    assert editor.send(text).json() == {"results": [{"result": []}]}


def test_a_batch_is_answered_from_the_log_in_order(editor: Editor) -> None:
    region = editor.ask(click("a", *ON_BALL))
    body = editor.request(None)
    unknown = [dict(body["tasks"][0], id=number) for number in (90_001, 90_002)]
    body["tasks"] = [unknown[0], *body["tasks"], unknown[1]]
    results = editor.client.post("/predict", json=body).json()["results"]
    assert [results[0], results[2]] == [[], []]
    assert results[1]["result"] == [region]
    assert results[1]["score"] == region["score"]


def test_a_batch_of_a_thousand_is_quick(editor: Editor) -> None:
    body = editor.request(None)
    body["tasks"] = [dict(body["tasks"][0], id=number) for number in range(1, 1001)]
    began = time.perf_counter()
    response = editor.client.post("/predict", json=body)
    assert len(response.json()["results"]) == 1000
    assert time.perf_counter() - began < 20


# --- what can go wrong ---


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


# --- the other routes ---


def test_setup_says_the_version_or_what_is_missing(client: httpx.Client, editor: Editor) -> None:
    good = client.post("/setup", json={"project": "7.1", "schema": editor.config})
    assert good.json() == {"model_version": "base"}
    bad = client.post("/setup", json={"project": "7.1", "schema": "<View/>"})
    assert bad.status_code == 422
    assert "<Image>" in bad.json()["error"]


def test_versions_by_get_with_a_body_and_by_post(client: httpx.Client) -> None:
    by_get = client.request("GET", "/versions", content=b'{"project": "7.1"}')
    by_post = client.post("/versions", json={"project": "7.1"})
    assert by_get.json() == by_post.json() == {"versions": ["base"]}


def test_ready_and_health(client: httpx.Client) -> None:
    assert client.get("/ready").json() == {"status": "READY", "model_version": "base"}
    for path in ("/", "/health"):
        assert client.get(path).json()["status"] == "UP"


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_browser_gets_a_page_that_knows_what_was_clicked(
    client: httpx.Client, settings: Settings, editor: Editor
) -> None:
    editor.ask(click("a", *ON_BALL))
    answer = client.get("/", headers=BROWSER)
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for words in ("half within", settings.label_studio.url, f":{settings.fiftyone.port}", "base"):
        assert words in answer.text
    assert f">{len(rows(settings, Interaction))}<" in answer.text  # clicks answered


def test_health_answers_while_an_image_is_encoded(client: httpx.Client, settings: Settings) -> None:
    assert settings.images.files_root is not None
    save(photograph(1500, 2000), settings.images.files_root / "large.jpg")
    large = Editor(client, url="/data/local-files/?d=large.jpg", task=50)
    clicking = threading.Thread(target=large.send, args=(click("a", *ON_BALL),))
    clicking.start()
    answers = 0
    while clicking.is_alive():
        assert client.get("/health").status_code == 200
        answers += 1
        time.sleep(0.01)
    clicking.join()
    # A server that waited for the encode would have given one, and that after it.
    assert answers > 3


def test_a_password_is_asked_for_everywhere_but_at_the_door(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, password="right")
    with backend(settings) as locked:
        for path in ("/", "/health"):
            assert locked.get(path).json()["status"] == "UP"
        refused = locked.get("/", headers=BROWSER)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic")  # so a browser asks
        shown = locked.get("/", headers=BROWSER, auth=("maskloop", "right"))
        assert shown.text.startswith("<!DOCTYPE html>")
        for method, path in [
            ("POST", "/predict"),
            ("POST", "/setup"),
            ("POST", "/webhook"),
            ("GET", "/versions"),
            ("GET", "/metrics"),
            ("GET", "/ready"),
        ]:
            assert locked.request(method, path).status_code == 401
            for wrong in (("maskloop", "wrong"), ("other", "right"), ("", "")):
                assert locked.request(method, path, auth=wrong).status_code == 401
        garbage = {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()}
        assert locked.get("/ready", headers=garbage).status_code == 401
        assert locked.get("/ready", auth=("maskloop", "right")).status_code == 200


def test_an_image_over_http_is_fetched_only_where_allowed(settings: Settings) -> None:
    handler = partial(QuietFiles, directory=str(settings.images.files_root))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/balls.png"
    host = f"127.0.0.1:{server.server_port}"
    try:
        for allowed in ((), (host,)):
            images = settings.images.model_copy(update={"allowed_hosts": allowed})
            home = settings.home / f"http-{len(allowed)}"
            with backend(settings.model_copy(update={"images": images, "home": home})) as client:
                response = Editor(client, url=url).send(click("a", *ON_BALL))
            assert response.status_code == (200 if allowed else 424), response.text
    finally:
        server.shutdown()
        server.server_close()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return


# --- webhooks, with no Redis to be had ---


def hook(action: str, **body: Any) -> dict[str, Any]:
    return {"action": action, "project": {"id": 7, "title": "t", "parsed_label_config": {}}, **body}


def test_a_webhook_is_kept_once_and_answered_at_once(
    client: httpx.Client, settings: Settings
) -> None:
    body = hook("ANNOTATION_CREATED", annotation={"id": 5, "updated_at": "2026-11-22T06:43:07Z"})
    for _ in range(2):
        assert client.post("/webhook", json=body).status_code == 201
    later = hook("ANNOTATION_CREATED", annotation={"id": 5, "updated_at": "2026-11-22T07:00:00Z"})
    client.post("/webhook", json=later)
    kept = [row for row in rows(settings, Event) if "5@" in row.key]
    assert len(kept) == 2
    assert all(row.done_at is None for row in kept)  # reconcile finds them
    assert kept[0].payload["project"] == {"id": 7, "title": "t"}
    assert "maskloop_not_enqueued_total" in client.get("/metrics").text


@pytest.mark.parametrize(
    "body",
    [
        hook("ANNOTATIONS_DELETED", annotations=[{"id": 2}]),
        hook("TASKS_CREATED", tasks=[{"id": n, "updated_at": "x" * 30} for n in range(500)]),
        hook("START_TRAINING"),
    ],
)
def test_every_event_of_the_loop_is_kept(
    client: httpx.Client, settings: Settings, body: dict[str, Any]
) -> None:
    assert client.post("/webhook", json=body).status_code == 201
    newest = rows(settings, Event)[-1]
    assert newest.action == body["action"]
    assert len(newest.key) <= 255


def test_other_webhooks_are_answered_and_forgotten(
    client: httpx.Client, settings: Settings
) -> None:
    before = len(rows(settings, Event))
    assert client.post("/webhook", json=hook("PROJECT_UPDATED")).status_code == 201
    assert len(rows(settings, Event)) == before
    huge = json.dumps(hook("TASKS_CREATED")).replace('"t"', "1e999").encode()
    for nonsense in (b"", b"[]", json.dumps({"action": 7}).encode(), huge):
        assert client.post("/webhook", content=nonsense).status_code == 404
