"""Drawings, words, notices, and results that are prepared in advance, on the whole backend.

It is longer than 300 lines because all its tests share one backend, which takes seconds to start.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.orm import Session

from backend import batch as stored
from backend.process import page_notice as standing
from backend.request import session
from model.masks import Mask, iou
from model.network.segnext import SegNext
from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.template import default_label_config, write_label_config
from pipeline.record.tables import Embedding, Interaction, Task
from pipeline.settings import Settings
from tests.editor import (
    AROUND_BALL,
    BALL,
    HEIGHT,
    ON_BALL,
    ON_BALL_TOO,
    ON_BLUE,
    WIDTH,
    Editor,
    backend,
    box,
    click,
    photograph,
    save,
    settings_for,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = settings_for(tmp_path_factory.mktemp("home"), draft_seconds=0.5, prefetch=2)
    save(photograph(), made.home / "files" / "balls.png")
    (made.home / "files" / "notes.png").write_text("This is no picture.")
    return made


def database(settings: Settings, statement: Any) -> list[Any]:
    engine = create_engine(settings.sql_url)
    with Session(engine) as session:
        found = list(session.execute(statement))
    engine.dispose()
    return found


def prompts(settings: Settings, region: Any) -> list[str]:
    """Kinds of the prompts in a region's newest reply; negative prompts have a minus."""
    newest = (
        select(Interaction.prompts)
        .where(Interaction.region_id == region["id"])
        .order_by(Interaction.id.desc())
        .limit(1)
    )
    ((found,),) = database(settings, newest)
    return [("" if p["positive"] else "-") + p["kind"] for p in found]


def drawn(name: str, tag: str, label: str, kind: str, **value: Any) -> dict[str, Any]:
    return {
        "id": name,
        "type": f"{kind}labels",
        "from_name": tag,
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {**value, f"{kind}labels": [label]},
    }


def outline(name: str = "o") -> dict[str, Any]:
    left, top, width, height = AROUND_BALL
    corners = [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
    return drawn(name, "outline", "Outline", "polygon", points=corners, closed=True)


def asks(name: str, x: float, y: float) -> dict[str, Any]:
    """A click that asks for a mask from the drawing."""
    return click(name, x, y, label="Use drawing")  # type: ignore[no-any-return]


def mask(region: Any) -> Mask:
    found = mask_of(region)
    assert found is not None
    return found


# --- Hints ---


def test_an_ordinary_click_reads_what_was_saved_before_it(
    editor: Editor, settings: Settings
) -> None:
    editor.draft = [outline()]
    region = editor.ask(click("a", *ON_BALL))
    assert iou(mask(region), BALL) > 0.85
    assert prompts(settings, region) == ["polygon", "click"]


def test_a_hint_that_was_used_is_not_used_for_the_next_object(
    editor: Editor, settings: Settings
) -> None:
    editor.draft = [outline()]
    first = editor.ask(click("a", *ON_BALL))
    editor.draft = [outline(), first]
    second = editor.ask(box("b", 66.5, 22, 27, 36))
    assert second["id"] != first["id"]
    assert prompts(settings, second) == ["box"]


def test_a_task_of_more_answers_than_are_looked_at_still_has_hints(
    editor: Editor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOOK_BACK", 2)
    editor.draft = [outline("long ago")]
    first = editor.ask(click("a", *ON_BALL))
    editor.draft = [outline("long ago"), first]
    for name, place in (("b", ON_BLUE), ("c", (90, 90)), ("d", (10, 90))):
        editor.ask(click(name, *place))
    assert prompts(settings, editor.ask(box("e", 66.5, 22, 27, 36))) == ["box"]
    editor.draft = [outline("long ago"), first, outline("new")]
    assert prompts(settings, editor.ask(click("f", *ON_BALL_TOO)))[-2:] == ["polygon", "click"]


def test_a_click_that_waits_and_finds_its_draft_reads_the_drawing(
    editor: Editor, settings: Settings
) -> None:
    ask = asks("a", *ON_BALL)
    editor.draft = [outline(), ask]  # saved before the request, which contains it
    region, notice = editor.told(ask)
    assert iou(mask(region), BALL) > 0.85
    assert region["value"]["brushlabels"] == ["Object"]
    assert prompts(settings, region) == ["polygon", "click"]
    assert notice == ""


def test_a_click_that_waits_in_vain_is_answered_and_says_so(editor: Editor) -> None:
    # There is no Label Studio here to read the draft from.
    region, notice = editor.told(asks("a", *ON_BALL))
    assert iou(mask(region), BALL) > 0.85
    assert "had not saved your drawing yet" in notice


def test_a_click_box_and_drawing_of_one_object_stay_one_region(
    editor: Editor, settings: Settings
) -> None:
    first = click("a", *ON_BALL, label="Other")
    region = editor.ask(first)
    second = editor.ask(box("b", *AROUND_BALL, rectanglelabels=["Other"]))
    ask = asks("c", *ON_BALL_TOO)
    editor.draft = [first, box("b", *AROUND_BALL, rectanglelabels=["Other"]), outline(), ask]
    third, _ = editor.told(ask)
    assert region["id"] == second["id"] == third["id"]
    assert third["value"]["brushlabels"] == ["Other"]
    assert {"click", "box", "polygon"} <= set(prompts(settings, third))
    editor.draft = []
    fourth = editor.ask(first, click("d", 50, 90, positive=False, label="Other"))
    assert fourth["id"] == region["id"]
    assert {"click", "-click", "box"} <= set(prompts(settings, fourth))


def test_a_damaged_hint_costs_no_click_its_answer(editor: Editor) -> None:
    editor.draft = [
        drawn("x", "outline", "Outline", "polygon", points="no list"),
        drawn("y", "scribble", "On it", "brush", touches=[{"relativePoints": [1e308, "a"]}]),
        drawn("z", "ellipse", "Ellipse", "ellipse", x=None),
    ]
    assert iou(mask(editor.ask(click("a", *ON_BALL))), BALL) > 0.85


# --- Outputs ---


@pytest.mark.parametrize("output", ["polygon", "vector", "bitmask"])
def test_the_next_click_goes_on_from_what_was_sent_and_from_edits(
    editor: Editor, settings: Settings, monkeypatch: pytest.MonkeyPatch, output: Any
) -> None:
    own = replace(editor, config=write_label_config(("Object",), output))
    own.config = own.config.replace(' model_notice="true"', "")
    region = own.ask(click("a", *ON_BALL))
    assert region["type"] == f"{output}labels"
    assert iou(mask(region), BALL) > 0.85
    own.draft = [region]
    again = own.ask(click("b", *ON_BALL_TOO))  # sent alone, as with Auto-Accept
    assert again["id"] == region["id"]
    opened = own.client.post("/predict", json=own.request(None)).json()["results"][0]
    assert opened["result"] == [again]
    # Outlining is slow, and must not be done again.
    monkeypatch.setattr(stored, "output_region", None)
    assert own.client.post("/predict", json=own.request(None)).json()["results"][0] == opened


# --- Words ---


def test_words_to_a_model_that_knows_none_say_so_and_cost_no_click(editor: Editor) -> None:
    text = {"id": "t", "type": "textarea", "from_name": "text", "to_name": "image"}
    text |= {"value": {"text": ["a ball"]}}
    region, notice = editor.told(text)
    assert region is None
    assert "knows no words" in notice
    editor.draft = [text]
    assert editor.ask(click("a", *ON_BALL)) is not None


# --- Notices ---


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"url": "/data/local-files/?d=none.png"}, "none.png"),
        ({"url": "/data/local-files/?d=notes.png"}, "not an image that can be read"),
        ({"url": ""}, "has no image in its field"),
    ],
)
def test_an_annotator_is_told_what_is_wrong_with_the_image(
    editor: Editor, change: dict[str, Any], said: str
) -> None:
    region, notice = replace(editor, **change).told(click("a", *ON_BALL))
    assert region is None
    assert notice.endswith("Your drawing is safe.")
    assert said in notice


def test_a_broken_model_is_told_without_a_traceback(
    editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(SegNext, "decode_batch", broken)
    region, notice = editor.told(click("a", *ON_BALL))
    assert region is None
    assert "Something broke" in notice
    assert "CUDA" not in notice
    monkeypatch.undo()
    region, notice = editor.told(click("a", *ON_BALL))
    assert region is not None
    assert notice == ""


def test_the_live_notice_needs_no_password_and_says_little(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "FRESH_SECONDS", -1)
    made = settings_for(tmp_path, password="secret")
    with backend(made) as client:
        answer = client.get("/notice", params={"project": 7})
        assert answer.json() == {"text": ""}
        assert answer.headers["access-control-allow-origin"] == "*"
        engine = create_engine(made.sql_url)
        with Session(engine) as session, session.begin():
            session.add(Task(ls_project_id=7, ls_task_id=1, url="/data/upload/x.png"))
        assert "1 image is still being encoded" in client.get("/notice?project=7").json()["text"]
        assert client.get("/notice?project=8").json() == {"text": ""}
        with Session(engine) as session, session.begin():
            session.execute(text("ALTER TABLE task RENAME TO gone"))
        assert client.get("/notice?project=7").json()["text"].startswith("The model is unavailable")
        assert client.get("/notice?project=seven").status_code == 422
        assert client.get("/metrics").status_code == 401
        engine.dispose()


# --- Speed ---


def test_the_latest_click_wins(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    editor.ask(click("warm", *ON_BLUE))
    entered, let = threading.Event(), threading.Event()
    decode = SegNext.decode_batch

    def slow(self: SegNext, *given: Any) -> Any:
        entered.set()
        assert let.wait(20)
        return decode(self, *given)

    monkeypatch.setattr(SegNext, "decode_batch", slow)
    a, b, c = click("a", *ON_BALL), click("b", *ON_BALL_TOO), click("c", 36, 56)
    answers: dict[int, Any] = {}

    def send(number: int, *marks: Any) -> threading.Thread:
        def run() -> None:
            answers[number] = editor.ask(*marks)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    first = send(1, a)
    assert entered.wait(20)
    second = send(2, a, b)
    third = send(3, a, b, c)
    time.sleep(0.5)  # both requests have arrived and wait
    let.set()
    for thread in (first, second, third):
        thread.join()
    answered = [answers[number] for number in (2, 3) if answers[number] is not None]
    assert len(answered) == 1  # only the newer of the waiting requests
    assert iou(mask(answered[0]), BALL) > 0.85
    text = editor.client.get("/metrics").text
    assert "maskloop_superseded_total 0.0" not in text


def test_opening_a_task_makes_it_and_the_next_ones_ready(
    settings: Settings, client: httpx.Client
) -> None:
    project = 77
    for number in range(1, 5):
        save(photograph(96 + number, 128), settings.home / "files" / f"{number}.png")
    engine = create_engine(settings.sql_url)
    with Session(engine) as session, session.begin():
        for number in range(1, 5):
            url = f"/data/local-files/?d={number}.png"
            session.add(Task(ls_project_id=project, ls_task_id=number, url=url))
    first = Editor(client, "/data/local-files/?d=1.png", 1, project, default_label_config())
    assert client.post("/predict", json=first.request(None)).json() == {"results": [[]]}

    encoded = (
        select(Task.ls_task_id)
        .join(Embedding, Embedding.image_id == Task.image_id)
        .where(Task.ls_project_id == project)
        .order_by(Task.ls_task_id)
    )
    until = time.monotonic() + 30
    while len(database(settings, encoded)) < 3 and time.monotonic() < until:
        time.sleep(0.05)
    assert [number for (number,) in database(settings, encoded)] == [1, 2, 3]
    engine.dispose()
