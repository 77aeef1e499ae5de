"""Clicks on the whole backend: a real database, the shipped model and real image files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.checkpoints import files as checkpoints
from model.inference import second_look
from model.masks import iou
from model.network.embedding import Embedding
from model.network.prediction import Window
from model.network.prompts import Box, Click, Prompt
from model.network.segnext import SegNext
from pipeline.labelstudio.regions import mask_of
from pipeline.masks.ops import clean
from pipeline.settings import Settings
from tests.editor import (
    AROUND_BALL,
    AROUND_BLUE,
    BALL,
    BLUE,
    HEIGHT,
    ON_BALL,
    ON_BALL_TOO,
    ON_BLUE,
    WIDTH,
    Editor,
    backend,
    box,
    click,
    log_of,
    photograph,
    save,
    settings_for,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def model() -> SegNext:
    return checkpoints.load(checkpoints.default_checkpoint())


# --- Clicks ---


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
    """Each request has only its last click; the draft is saved seconds later, or not yet."""
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


def test_taking_away_where_no_mask_is_gives_none_and_says_so(
    settings: Settings, editor: Editor
) -> None:
    region, notice = editor.told(click("a", *ON_BLUE, positive=False))
    assert region is None and "no mask to take away from" in notice
    first = editor.ask(click("b", *ON_BALL))
    editor.draft = [first]
    beside = (99, 99)  # on no object
    # This click is sent alone, because the mask was accepted.
    region, notice = editor.told(click("c", *beside, positive=False))
    assert region is None and "no mask to take away from" in notice
    assert len(log_of(settings, editor)) == 1
    assert editor.ask(click("c", *beside, positive=False), click("d", *ON_BLUE)) is not None


@pytest.mark.parametrize("label", ["Object", "Use drawing"])
def test_a_click_that_comes_again_under_another_label_is_answered(
    editor: Editor, label: str
) -> None:
    other = {"Object": "Use drawing", "Use drawing": "Object"}[label]
    first, _ = editor.told(click("a", *ON_BALL, label=label))
    again, _ = editor.told(click("a", *ON_BALL, label=other))
    assert first["id"] == again["id"]
    boxed, _ = editor.told(box("a", *AROUND_BALL))
    assert mask_of(boxed) is not None


def test_what_was_too_ragged_to_show_stays_unshown(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, max_reply_bytes=1)
    save(photograph(), tmp_path / "files" / "balls.png")
    with backend(settings) as client:
        annotator = Editor(client)
        assert annotator.ask(click("a", *ON_BALL)) is None
        assert annotator.ask(click("a", *ON_BALL)) is None  # the same request again
        opened = client.post("/predict", json=annotator.request(None)).json()["results"]
        assert opened in ([], [[]])


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


# --- Objects that the shipped weights recognise ---


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


# --- Requests without a click ---


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
