"""Marks: from percent to pixels, to the prompt, to the log and back, and which mask covers them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.request.prompts import Kind, Mark, covers, prompt_of
from model.network.prompts import Box, Click, Polygon, Scribble, check_prompt

HEIGHT, WIDTH = 100, 200
CLICK = Mark("c", "click", True, 30.0, 20.0)
BOX = Mark("b", "box", True, 10.0, 20.0, 50.0, 60.0)
OUTLINE = Mark("p", "polygon", False, 2.0, 3.0, points=((1.0, 2.0), (3.0, 4.0), (5.0, 2.0)))
STROKE = Mark("s", "scribble", True, 7.0, 8.0, points=((7.0, 8.0), (9.0, 10.0)), width=3.5)
WORDS = Mark("t", "text", True, text="red cup")


@pytest.mark.parametrize(
    ("x", "y", "column", "row"),
    [
        (0, 0, 0, 0),
        (100, 100, 200, 100),
        (25, 50, 50, 50),
        (-3, 300, 0, 100),
        (1e308, -1e308, 200, 0),
    ],
)
def test_a_click_is_brought_to_pixels_on_the_image(
    x: float, y: float, column: float, row: float
) -> None:
    placed = Mark("c", "click", False, x, y).on_image(HEIGHT, WIDTH)
    assert placed == Mark("c", "click", False, column, row)


def test_a_box_keeps_its_corners_and_loses_its_turn() -> None:
    box = Mark("b", "box", True, 10, 20, 30, 60).on_image(HEIGHT, WIDTH)
    assert (box.x, box.y, box.x2, box.y2, box.turn) == (20, 20, 60, 60, 0)


def test_a_box_turned_half_way_round_lies_on_the_other_side_of_its_corner() -> None:
    box = Mark("b", "box", True, 50, 50, 60, 70, turn=180).on_image(HEIGHT, WIDTH)
    assert (box.x, box.y, box.x2, box.y2) == pytest.approx((80, 30, 100, 50))


def test_a_turn_is_one_of_pixels_and_not_of_percent() -> None:
    # 40 by 20 pixels, turned clockwise by 90 degrees: 20 by 40 pixels, left of its corner.
    box = Mark("b", "box", True, 50, 20, 70, 40, turn=90).on_image(HEIGHT, WIDTH)
    assert (box.x, box.y, box.x2, box.y2) == pytest.approx((80, 20, 100, 60))


def test_every_mark_finds_its_place_in_the_prompt_rows_first() -> None:
    mask = np.zeros((4, 4), np.float32)
    prompt = prompt_of([CLICK, BOX, OUTLINE, STROKE, WORDS], mask)
    check_prompt(prompt)
    assert prompt.clicks == (Click(row=20, col=30, positive=True),)
    assert prompt.boxes == (Box(top=20, left=10, bottom=60, right=50),)
    assert prompt.polygons == (Polygon(((2, 1), (4, 3), (2, 5)), positive=False),)
    assert prompt.scribbles == (Scribble(((8, 7), (10, 9)), width=3.5, positive=True),)
    assert prompt.text == "red cup"
    assert prompt.mask is mask


def test_clicks_stay_in_order_and_of_several_words_the_last_count() -> None:
    second = Mark("d", "click", False, 1, 2)
    other = Mark("u", "text", True, text="blue cup")
    prompt = prompt_of([CLICK, WORDS, second, other])
    assert [click.positive for click in prompt.clicks] == [True, False]
    assert prompt.text == "blue cup"
    assert prompt_of([]).text is None


@pytest.mark.parametrize("mark", [CLICK, BOX, OUTLINE, STROKE, WORDS], ids=lambda mark: mark.kind)
def test_the_log_gives_every_kind_back_through_json(mark: Mark) -> None:
    for carried in (False, True):
        entry = json.loads(json.dumps(mark.to_json(carried=carried), allow_nan=False))
        assert entry.get("carried", False) is carried
        assert Mark.from_json(entry) == mark
        assert hash(Mark.from_json(entry)) == hash(mark)


def test_the_log_holds_nothing_that_a_mark_has_not() -> None:
    assert CLICK.to_json() == {"id": "c", "kind": "click", "positive": True, "x": 30.0, "y": 20.0}
    assert "turn" not in Mark("b", "box", True, 1, 2, 3, 4, turn=5).to_json()
    assert STROKE.to_json()["width"] == 3.5


def test_a_reply_logged_before_there_were_drawings_is_read() -> None:
    old = {"id": "c", "kind": "click", "positive": True, "x": 30.0, "y": 20.0, "carried": True}
    assert Mark.from_json(old) == CLICK


coordinates = st.floats(allow_nan=False, allow_infinity=False)
kinds: list[Kind] = ["click", "box", "polygon", "scribble"]


@given(
    st.builds(
        Mark,
        st.text(max_size=4),
        st.sampled_from(kinds),
        st.booleans(),
        coordinates,
        coordinates,
        points=st.lists(st.tuples(coordinates, coordinates), max_size=5).map(tuple),
        width=st.none() | coordinates,
    )
)
def test_any_mark_comes_back_from_the_log(mark: Mark) -> None:
    assert Mark.from_json(json.loads(json.dumps(mark.to_json()))) == mark


@given(coordinates, coordinates)
def test_any_click_lands_on_the_image(x: float, y: float) -> None:
    placed = Mark("c", "click", True, x, y).on_image(HEIGHT, WIDTH)
    assert 0 <= placed.x <= WIDTH
    assert 0 <= placed.y <= HEIGHT


def test_what_a_mask_covers_whatever_its_resolution() -> None:
    small = np.zeros((10, 20), np.bool_)
    small[2, 3] = True  # rows 20 to 30, columns 30 to 40 of the image
    large = np.kron(small, np.ones((10, 10), np.bool_))
    for mask in (small, large):
        assert covers(mask, CLICK, HEIGHT, WIDTH)
        assert covers(mask, Mark("c", "click", True, 39.9, 29.9), HEIGHT, WIDTH)
        assert not covers(mask, Mark("c", "click", True, 40.1, 29.9), HEIGHT, WIDTH)
        assert not covers(mask, Mark("c", "click", True, 20.0, 30.0), HEIGHT, WIDTH)
        # The middle of a box counts: (30, 40) and (35, 25).
        assert not covers(mask, BOX, HEIGHT, WIDTH)
        assert covers(mask, Mark("b", "box", True, 0.0, 0.0, 70.0, 50.0), HEIGHT, WIDTH)


def test_the_far_edge_of_the_image_is_still_on_the_mask() -> None:
    corner = np.zeros((10, 20), np.bool_)
    corner[-1, -1] = True
    assert covers(corner, Mark("c", "click", True, WIDTH, HEIGHT), HEIGHT, WIDTH)


def test_words_are_nowhere() -> None:
    assert not covers(np.ones((2, 2), np.bool_), WORDS, HEIGHT, WIDTH)
