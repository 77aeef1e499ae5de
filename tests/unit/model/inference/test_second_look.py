"""Which window a second look takes, which prompt it gets there, and what it answers.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.errors import PromptError
from model.inference import second_look
from model.inference.second_look import (
    LEAST_ZOOM,
    MARGIN,
    Looker,
    answer,
    find_window,
    in_window,
    is_quick,
)
from model.network.config import SMALL, SegNextConfig
from model.network.embedding import Embedding
from model.network.prediction import Prediction, Window
from model.network.prompts import Box, Click, Polygon, Prompt, Scribble
from model.network.rasterise import prompt_map
from model.network.segnext import SegNext

TINY = replace(SMALL, size=64, dim=32, depth=1, heads=2, fusion_heads=2, neck=(8, 8, 8, 8), head=8)
VIT = SegNextConfig(
    size=64, dim=24, depth=1, heads=3, pretrain_grid=2, fusion_heads=3, neck=(8, 8, 8, 8), head=8
)
SIZE = (400, 600)
SMALL_BOX = Box(100, 200, 130, 240)


@pytest.fixture(scope="module", params=[TINY, VIT], ids=["small", "vit"])
def model(request) -> SegNext:
    torch.manual_seed(0)
    return SegNext(request.param).eval()


def picture(size=SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)


def shown(top, left, bottom, right, size=SIZE) -> np.ndarray:
    mask = np.zeros(size, np.float32)
    mask[top:bottom, left:right] = 0.9
    return mask


def window_of(model, prompt, size=SIZE) -> Window:
    window = find_window(model, prompt, size)
    assert window is not None
    return window


# --- the window ---


def test_a_small_object_gets_a_window_around_it_and_a_large_one_none(model):
    window = window_of(model, Prompt(boxes=(SMALL_BOX,)))
    assert window.size[0] == window.size[1] >= MARGIN * 40
    assert window.top <= 100 and window.bottom >= 130 and window.left <= 200 and window.right >= 240
    middle = (window.top + window.bottom) / 2, (window.left + window.right) / 2
    assert abs(middle[0] - 115) < window.size[0] / 4 and abs(middle[1] - 220) < window.size[1] / 4
    assert find_window(model, Prompt(boxes=(Box(50, 50, 350, 500),)), SIZE) is None


def test_clicks_alone_do_not_say_how_large_the_object_is_but_a_mask_does(model):
    clicks = (Click(110, 220),)
    assert find_window(model, Prompt(clicks), SIZE) is None
    assert find_window(model, Prompt(scribbles=(Scribble(((110, 220),)),)), SIZE) is None
    masked = Prompt(clicks, mask=shown(100, 200, 130, 240))
    assert find_window(model, masked, SIZE) == find_window(model, Prompt(boxes=(SMALL_BOX,)), SIZE)
    everything = Prompt(clicks, mask=np.ones((40, 60), np.float32))
    assert find_window(model, everything, SIZE) is None


def test_of_a_mask_in_parts_only_those_with_a_mark_count(model):
    both = shown(100, 200, 130, 240) + shown(350, 500, 390, 590)
    only = window_of(model, Prompt(mask=shown(100, 200, 130, 240)))
    assert find_window(model, Prompt(mask=both), SIZE) is None
    assert find_window(model, Prompt((Click(380, 100, positive=False),), mask=both), SIZE) is None
    for marks in (
        Prompt((Click(110, 220),)),
        Prompt(scribbles=(Scribble(((110, 220), (120, 230))),)),
        Prompt((Click(110, 220), Click(120, 205, positive=False)), (SMALL_BOX,)),
    ):
        assert find_window(model, replace(marks, mask=both), SIZE) == only
    assert find_window(model, Prompt((Click(110, 220), Click(360, 550)), mask=both), SIZE) is None


@pytest.mark.parametrize(
    "more",
    [
        Prompt((Click(140, 190, positive=False),)),
        Prompt(scribbles=(Scribble(((140, 190), (120, 250)), positive=False),)),
        Prompt(polygons=(Polygon(((95, 195), (140, 195), (140, 245))),)),
        Prompt(boxes=(Box(140, 245, 95, 195),)),  # edges in any order
    ],
)
def test_every_mark_lies_inside(model, more):
    window = window_of(model, replace(more, mask=shown(100, 200, 130, 240)))
    canvas = prompt_map(more, SIZE, SIZE, 1)[1:].sum(0).numpy()
    assert canvas.sum() == canvas[window.slices].sum() > 0
    far = replace(more, clicks=(*more.clicks, Click(390, 10)), mask=shown(100, 200, 130, 240))
    assert find_window(model, far, SIZE) is None


@pytest.mark.parametrize(
    "box", [Box(-50, -50, 20, 20), Box(380, 580, 500, 700), Box(0, 0, 1, 1), Box(399, 0, 400, 3)]
)
def test_a_window_never_leaves_the_image(model, box):
    window = window_of(model, Prompt(boxes=(box,)))
    assert 0 <= window.top < window.bottom <= 400 and 0 <= window.left < window.right <= 600


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (47, 47), (100, 100), (4000, 6000)])
def test_an_image_of_any_size_gets_a_window_inside_it_or_none(model, size):
    window = find_window(model, Prompt(boxes=(Box(0, 0, 1, 1),)), size)
    if window is not None:
        assert 0 < window.size[0] <= size[0] and 0 < window.size[1] <= size[1]
        assert max(size) >= LEAST_ZOOM * max(window.size)


def test_a_mask_that_changes_a_little_mostly_gives_the_same_window(model):
    """Each new window costs an encode."""
    rng = np.random.default_rng(0)
    kept = 0
    for _ in range(100):
        top, left = rng.integers(50, 250, 2)
        edges = np.array([top, left, top + rng.integers(20, 45), left + rng.integers(20, 45)])
        moved = edges + rng.integers(-3, 4, 4)
        first, second = (window_of(model, Prompt(mask=shown(*each))) for each in (edges, moved))
        kept += first == second
    assert kept > 70


# --- the prompt in the window ---


def test_a_prompt_is_moved_into_the_window():
    window = Window(90, 180, 186, 276)
    prompt = Prompt(
        clicks=(Click(100, 190), Click(150.4, 240.7, positive=False)),
        boxes=(Box(110, 170, 130, 230),),
        polygons=(Polygon(((95, 200), (140, 240), (120, 190.5)), positive=False),),
        scribbles=(Scribble(((95, 200), (140, 235))), Scribble(((92, 185), (92, 240)), 5.0, False)),
        mask=np.random.default_rng(0).random(SIZE, np.float32),
        text="a cup",
    )
    whole = prompt_map(prompt, SIZE, SIZE, 5)
    part = prompt_map(in_window(prompt, SIZE, window), window.size, window.size, 5)
    torch.testing.assert_close(part, whole[:, 90:186, 180:276], atol=1e-6, rtol=0)
    assert in_window(prompt, SIZE, window).text == "a cup"


@pytest.mark.parametrize("cells", [(100, 150), (96, 64), (200, 300), (1000, 1500)])
def test_a_mask_of_any_resolution_is_cut_at_the_right_place(cells):
    """The mask is a ramp, whose value at each pixel says where that pixel lies."""
    rows = ((np.arange(cells[0]) + 0.5) / cells[0]).astype(np.float32)
    ramp = np.broadcast_to(rows[:, None], cells)
    window = Window(100, 200, 196, 296)
    cut = in_window(Prompt(mask=ramp), SIZE, window).mask
    expected = (100 + 96 * (np.arange(cut.shape[0]) + 0.5) / cut.shape[0]) / 400
    np.testing.assert_allclose(cut, np.broadcast_to(expected[:, None], cut.shape), atol=2e-3)
    across = in_window(Prompt(mask=np.ascontiguousarray(ramp.T)), SIZE, window).mask
    expected = (200 + 96 * (np.arange(across.shape[1]) + 0.5) / across.shape[1]) / 600
    np.testing.assert_allclose(across, np.broadcast_to(expected, across.shape), atol=2e-3)


# --- the answer ---


def test_the_answer_of_a_window_is_in_pixels_of_the_image(model):
    image, prompt = picture(), Prompt((Click(110, 220),), (SMALL_BOX,))
    window = window_of(model, prompt)
    looker = Looker(model)
    sight = looker.encode(image)
    seen = looker.decode(sight, prompt)
    if seen.window is None:  # a random network may see nothing in the window
        pytest.skip("the random network's answer in the window is empty")
    assert list(sight.windows)[0] == window and seen.image_size == SIZE
    last = seen.window
    alone = model.decode(model.encode(image[last.slices]), in_window(prompt, SIZE, last))
    mask = seen.mask()
    assert mask.shape == SIZE and mask.sum() == alone.mask().sum()
    np.testing.assert_array_equal(mask[last.slices], alone.mask())


class Scripted:
    """A decoder whose answers are given in advance: ``rows`` (and columns) of the object, for each
    window in turn."""

    def __init__(self, model: SegNext, *rows: tuple[int, int]) -> None:
        self.model, self.rows = model, list(rows)
        self.asked: list[tuple[int, int]] = []
        self.told: list[Prompt] = []

    def crop(self, window: Window) -> Embedding:
        return Embedding(torch.zeros(1, 1, 1), (), window.size)

    def decode(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        self.asked.append(embedding.image_size)
        self.told.append(prompt)
        first, last = self.rows.pop(0)
        size = self.model.input_size(embedding.image_size)
        logits = torch.full((size[0] // 4, size[1] // 4), -8.0)
        logits[first:last, first:last] = 8
        return Prediction(logits, size, embedding.image_size, 0.49)

    def answer(self, prompt: Prompt, size: tuple[int, int] = SIZE) -> Prediction:
        whole = Embedding(torch.zeros(1, 1, 1), (), size)
        return answer(self.model, prompt, whole, self.crop, self.decode)


def test_windows_get_smaller_until_the_object_is_large_in_them(model):
    play = Scripted(model, (4, 6), (8, 9), (4, 12))
    found = play.answer(Prompt((Click(1250, 1250),)), (4000, 4000))
    sides = [side for side, _ in play.asked]
    assert sides[0] == 4000 and len(sides) == 3
    assert all(a >= LEAST_ZOOM * b for a, b in zip(sides, sides[1:], strict=False))
    assert found.window is not None and found.window.size == play.asked[-1]
    assert found.image_size == found.mask().shape == (4000, 4000)


def test_an_answer_that_grows_in_its_window_is_not_used(model):
    """From close by, a click might also mean the larger thing that the object lies on."""
    play = Scripted(model, (6, 7), (1, 15))
    found = play.answer(Prompt((Click(170, 170),)), (400, 400))
    assert found.window is None and len(play.asked) == 2
    play = Scripted(model, (1, 15))  # a box says how large the object may be
    assert play.answer(Prompt(boxes=(SMALL_BOX,)), (400, 400)).window is not None


def test_a_prompt_whose_answer_outgrows_the_previous_mask_is_answered_on_the_whole_image(model):
    """The new answer on the whole image may be larger than the mask before."""
    before = shown(150, 150, 200, 200, (400, 400))
    clicks = Prompt((Click(170, 170), Click(190, 190)), mask=before.astype(np.float32))
    play = Scripted(model, (1, 15), (6, 9), (4, 12))
    found = play.answer(clicks, (400, 400))
    (first, _), (second, _), (third, _) = play.asked
    assert second == 400 and first < 400 and third < 400
    assert found.window is not None and found.window.size == play.asked[-1]
    play = Scripted(model, (1, 15), (6, 9), (1, 15))
    assert play.answer(clicks, (400, 400)).window is None


def test_the_first_answer_is_part_of_the_prompt_in_the_window_but_not_after_a_box(model):
    play = Scripted(model, (6, 7), (4, 12))
    play.answer(Prompt((Click(170, 170),)), (400, 400))
    first, second = play.told
    assert first.mask is None and second.mask is not None and second.mask.max() > 0.9
    play = Scripted(model, (4, 12))
    play.answer(Prompt(boxes=(SMALL_BOX,)), (400, 400))
    assert play.told[0].mask is None


def test_a_large_object_gets_no_second_look(model):
    play = Scripted(model, (2, 14))
    assert play.answer(Prompt((Click(200, 200),)), (400, 400)).window is None
    assert len(play.asked) == 1


@pytest.mark.parametrize("col", [-4, 603])
def test_a_mark_just_outside_the_image_is_still_answered(model, col):
    looker = Looker(model)
    sight = looker.encode(picture())
    edge = shown(100, 0, 110, 10) if col < 0 else shown(100, 590, 110, 600)
    marked = Prompt((Click(105, col),), mask=edge)
    assert find_window(model, marked, SIZE) is not None
    assert looker.decode(sight, marked).mask().shape == SIZE


def test_an_object_lost_in_the_window_keeps_its_first_answer(model):
    play = Scripted(model, (6, 7), (0, 0))
    found = play.answer(Prompt((Click(170, 170),)), (400, 400))
    assert found.window is None and found.mask().any() and len(play.asked) == 2
    play = Scripted(model, (0, 0), (6, 7))  # the box says where to look before the first answer
    found = play.answer(Prompt(boxes=(SMALL_BOX,)), (400, 400))
    assert found.window is None and found.mask().any()
    assert play.asked[0][0] < 400 and play.asked[1] == (400, 400)


def test_a_prompt_without_meaning_is_refused_as_without_second_looks(model):
    sight = Looker(model).encode(picture())
    for prompt in (
        Prompt(),
        Prompt((Click(float("nan"), 3),)),
        Prompt(boxes=(Box(0, 0, 1, float("inf")),)),
        Prompt((Click(9000, 9000),)),
    ):
        with pytest.raises(PromptError, match=r"\.$"):
            Looker(model).decode(sight, prompt)


def test_windows_are_encoded_once(model, monkeypatch):
    looker = Looker(model)
    sight = looker.encode(picture())
    prompt = Prompt(boxes=(SMALL_BOX,))
    first = looker.decode(sight, prompt)
    monkeypatch.setattr(SegNext, "encode", None)  # another encode would fail
    assert torch.equal(looker.decode(sight, prompt).logits, first.logits)
    assert sight.windows


def test_second_looks_are_quick_where_the_encoder_is():
    assert is_quick(SegNext(TINY)) and not is_quick(SegNext(VIT))


def test_looks_come_to_an_end():
    """If an object filled its own window, that window would be looked at again and again."""
    assert MARGIN > 1 and LEAST_ZOOM > 1 and second_look.STEP >= LEAST_ZOOM
