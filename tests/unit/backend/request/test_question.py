"""The JSON of /predict as values: places, signs, turned boxes and invalid entries."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.request.prompts import Mark, prompt_of
from backend.request.question import read_question
from model.errors import MaskloopError, PromptError
from model.network.prompts import Box, Click
from pipeline.errors import RequestError


def body(*result: Any, **changes: Any) -> dict[str, Any]:
    return {
        "tasks": [{"id": 3, "data": {"image": "x.png"}}],
        "project": "7.1795328252",
        "label_config": "<View/>",
        "params": {"context": {"result": list(result)}},
        **changes,
    }


def keypoint(**changes: Any) -> dict[str, Any]:
    value = {"x": 25.0, "y": 50.0, "width": 0.2, "keypointlabels": ["Cat"]}
    return {"id": "k", "type": "keypointlabels", "is_positive": True, "value": value, **changes}


def rectangle(**value: Any) -> dict[str, Any]:
    given_value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, **value}
    return {"id": "r", "type": "rectanglelabels", "value": given_value}


def only_mark(entry: dict[str, Any]) -> Mark:
    gesture = read_question(body(entry)).gesture
    assert gesture is not None
    (mark,) = gesture.marks
    return mark


def test_a_click_in_percent_becomes_pixels() -> None:
    mark = only_mark(keypoint()).on_image(height=200, width=400)
    assert (mark.x, mark.y, mark.positive) == (100, 100, True)
    assert prompt_of([mark]).clicks == (Click(row=100, col=100, positive=True),)


def test_alt_makes_a_click_negative_and_older_versions_send_no_sign() -> None:
    assert only_mark(keypoint(is_positive=False)).positive is False
    unsigned = keypoint()
    del unsigned["is_positive"]
    assert only_mark(unsigned).positive is True


def test_a_box_in_percent_becomes_pixels() -> None:
    mark = only_mark(rectangle()).on_image(height=100, width=200)
    assert prompt_of([mark]).boxes == (Box(top=20, left=20, bottom=60, right=80),)


def test_a_turned_box_becomes_the_upright_box_around_it() -> None:
    mark = only_mark(rectangle(x=50, y=50, width=10, height=20, rotation=90))
    turned = mark.on_image(height=100, width=100)
    assert (turned.x, turned.y, turned.x2, turned.y2) == pytest.approx((30, 50, 50, 60))
    assert turned.turn == 0


def test_a_mark_outside_the_image_is_brought_to_its_edge() -> None:
    far = only_mark(rectangle(x=-50, y=-50, width=1e6, height=1e6)).on_image(100, 200)
    assert (far.x, far.y, far.x2, far.y2) == (0, 0, 200, 100)


def test_the_log_gives_back_the_same_mark() -> None:
    for entry in (keypoint(), rectangle(rotation=30)):
        mark = only_mark(entry).on_image(333, 777)
        assert Mark.from_json(mark.to_json()) == mark
        assert Mark.from_json(mark.to_json(carried=True)) == mark


def test_who_asks() -> None:
    assert read_question(body()).asked
    assert read_question(body()).gesture is None
    unasked = read_question(body(params={"context": None}))
    assert (unasked.asked, unasked.gesture) == (False, None)
    shape = {"id": "t", "type": "polygonlabels", "value": {"points": [[1, 2], [3, 4], [5, 1]]}}
    assert read_question(body(shape)).gesture is None
    assert read_question(body()).project_id == 7


def test_words_come_as_a_mark_without_a_place() -> None:
    text = {
        "id": "t",
        "type": "textarea",
        "from_name": "text",
        "value": {"text": ["a", " red  cup "]},
    }
    question = read_question(body(text))
    assert question.gesture is not None
    assert question.gesture.label is None
    (mark,) = question.gesture.marks
    assert (mark.kind, mark.text) == ("text", "red cup")
    assert prompt_of([mark]).text == "red cup"


@pytest.mark.parametrize("words", [None, [], [""], ["  "], [7], "", "\0", "\ud800", {"a": 1}])
def test_a_text_box_without_words_is_refused(words: Any) -> None:
    with pytest.raises(PromptError, match="holds no words"):
        read_question(body({"id": "t", "type": "textarea", "value": {"text": words}}))


def test_a_newer_draft_takes_the_place_of_the_older() -> None:
    (view,) = read_question(body(tasks=[{"id": 3, "drafts": [{"result": [{"id": "d"}]}]}])).tasks
    assert set(view.kept) == set(view.drawn) == {"d"}
    newer = view.with_draft({"result": [{"id": "e"}]})
    assert set(newer.kept) == set(newer.drawn) == {"e"}
    for nonsense in (None, 7, [7], {"id": "e"}):
        assert not view.with_draft({"result": nonsense}).kept


@pytest.mark.parametrize("of", [5, None])  # None: a new annotation next to others
def test_a_draft_is_all_that_its_page_shows(of: int | None) -> None:
    task = {
        "id": 3,
        "annotations": [
            {"id": 5, "result": [{"id": "mine"}, {"id": "deleted"}]},
            {"id": 6, "result": [{"id": "others"}]},
        ],
        "drafts": [{"id": 1, "annotation": of, "result": [{"id": "mine"}]}],
    }
    (view,) = read_question(body(tasks=[task])).tasks
    assert set(view.kept) == set(view.drawn) == {"mine"}


@pytest.mark.parametrize("turned", [False, True])
def test_a_region_repeated_under_the_clicks_tag_is_still_the_mask(turned: bool) -> None:
    same = [{"id": "a", "type": "polygonlabels"}, {"id": "a", "type": "keypointlabels"}]
    task = {"id": 3, "drafts": [{"result": same[:: -1 if turned else 1]}]}
    (view,) = read_question(body(tasks=[task])).tasks
    assert view.kept["a"]["type"] == "polygonlabels"


@pytest.mark.parametrize("name", ["", "\0", "\ud800", "x" * 300, 7, None])
def test_a_region_whose_id_no_database_takes_is_left_out(name: Any) -> None:
    task = {"id": 3, "drafts": [{"result": [{"id": name}, {"id": "b"}]}]}
    (view,) = read_question(body(tasks=[task])).tasks
    assert set(view.kept) == {"b"}


def test_words_that_are_edited_in_place_are_other_words() -> None:
    def mark(words: str) -> Mark:
        return only_mark({"id": "t", "type": "textarea", "value": {"text": [words]}})

    assert mark("cat") == mark(" cat ")
    assert mark("cat").id != mark("dog").id


def test_regions_of_annotations_are_known_by_id() -> None:
    task = {
        "id": 3,
        "annotations": [{"result": [{"id": "a"}]}, None, {"result": None}],
    }
    (view,) = read_question(body(tasks=[task])).tasks
    assert set(view.kept) == {"a"} and not view.drawn


def test_an_annotation_that_was_only_opened_shows_the_regions_of_the_prediction() -> None:
    predictions = [{"result": [{"id": "p", "type": "brushlabels", "score": 0.9}]}]
    (view,) = read_question(body(tasks=[{"id": 3, "predictions": predictions}])).tasks
    assert set(view.kept) == {"p"}
    draft = {"result": [{"id": "d", "type": "brushlabels"}]}
    task = {"id": 3, "predictions": predictions, "annotations": [], "drafts": [draft]}
    (view,) = read_question(body(tasks=[task])).tasks
    assert set(view.kept) == {"d"}


@pytest.mark.parametrize(
    "changes",
    [
        {"tasks": None},
        {"tasks": [None]},
        {"tasks": [{"id": True}]},
        {"tasks": [{"id": -1}]},
        {"tasks": [{"id": 2**40}]},
        {"project": "none"},
        {"project": "9" * 30},
        {"project": {"id": 1}},
    ],
)
def test_no_task_or_project_is_a_request_error(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        read_question(body(**changes))


@pytest.mark.parametrize(
    "entry",
    [
        keypoint(id=None),
        keypoint(id=""),
        keypoint(id="x" * 300),
        keypoint(id="\ud800"),
        keypoint(id="\0"),
        keypoint(value={"x": 10**400, "y": 1}),
        keypoint(value={"x": "1", "y": 1}),
        keypoint(value={"x": float("nan"), "y": 1}),
        keypoint(value={"x": float("inf"), "y": 1}),
        rectangle(width="wide"),
        rectangle(rotation="left"),
    ],
)
def test_a_mark_that_means_nothing_is_a_prompt_error(entry: dict[str, Any]) -> None:
    with pytest.raises(PromptError):
        read_question(body(entry))


def test_too_many_marks_are_refused() -> None:
    with pytest.raises(PromptError):
        read_question(body(*[keypoint()] * 1001))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "tasks",
                    "params",
                    "context",
                    "result",
                    "project",
                    "id",
                    "type",
                    "value",
                    "x",
                    "data",
                ]
            )
            | st.text(max_size=3),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(anything, anything)
def test_any_json_is_read_or_refused_with_a_sentence(whole: Any, inner: Any) -> None:
    for request in (whole, body(inner), body(tasks=[inner]), body(keypoint(value=inner))):
        try:
            read_question(request)
        except MaskloopError as error:
            assert str(error).endswith(".")
