"""Simulated annotators click where the field's evaluation does, and draw on the object."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from model.errors import PromptError
from model.evaluation.simulation import (
    START_KINDS,
    box_around,
    depth,
    next_click,
    outline,
    rough_mask,
    start_prompt,
    strokes,
    training_box,
    training_click,
    training_negative,
    training_outline,
    training_strokes,
)
from model.network.prompts import Box, Click, Prompt, check_prompt
from model.network.rasterise import prompt_map


def _square(top, left, side, size=64):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_the_first_click_is_the_deepest_pixel_of_the_object():
    target = _square(10, 20, 21)
    nothing = np.zeros_like(target)
    assert next_click(target, nothing, nothing.copy()) == Click(20.0, 30.0, True)


def test_the_image_border_counts_as_outside():
    full = np.ones((31, 31), bool)
    assert next_click(full, ~full, np.zeros_like(full)) == Click(15.0, 15.0, True)
    assert depth(full)[0, 0] == 1


def test_the_deeper_error_region_is_clicked():
    target = _square(5, 5, 9)
    predicted = _square(30, 30, 25)
    click = next_click(target, predicted, np.zeros_like(target))
    assert click == Click(42.0, 42.0, False)


def test_no_pixel_is_clicked_twice_and_a_perfect_mask_not_at_all():
    target = _square(5, 5, 5)
    used = np.zeros_like(target)
    clicks = [next_click(target, np.zeros_like(target), used) for _ in range(25)]
    assert len({(c.row, c.col) for c in clicks}) == 25
    assert next_click(target, np.zeros_like(target), used) is None
    assert next_click(target, target, np.zeros_like(target)) is None


def test_unknown_pixels_are_never_clicked():
    target = _square(0, 0, 64)
    known = _square(40, 40, 11)
    click = next_click(target, np.zeros_like(target), np.zeros_like(target), known)
    assert click == Click(45.0, 45.0, True)


def test_training_clicks_fall_in_the_inner_half_of_the_error():
    target, predicted = _square(5, 5, 30), _square(5, 5, 8)
    rng = np.random.default_rng(0)
    error = depth(target & ~predicted)
    for _ in range(50):
        click = training_click(target, predicted, rng)
        assert click.positive and error[int(click.row), int(click.col)] > error.max() / 2
    assert training_click(target, target, rng) is None


def test_training_boxes_stay_near_the_object():
    target = _square(10, 20, 20)
    for seed in range(20):
        box = training_box(target, np.random.default_rng(seed))
        edges = np.array([box.top, box.left, box.bottom, box.right])
        assert np.abs(edges - [10, 20, 30, 40]).max() <= 2


def _ring(size=96):
    rows, cols = np.indices((size, size)) - size // 2
    far = np.hypot(rows, cols)
    return (far < 40) & (far > 28)


def _drawn(prompt, size):
    return prompt_map(prompt, size, size, 2).numpy()


SHAPES = [_square(10, 20, 30), _square(3, 3, 1), _square(0, 0, 64), _ring(), np.eye(64) > 0]


@pytest.mark.parametrize("target", SHAPES)
@pytest.mark.parametrize("kind", START_KINDS)
def test_every_kind_of_first_prompt_marks_its_object(kind, target):
    channels = _drawn(start_prompt(kind, target), target.shape)
    said = channels[0] > 0.5 if kind == "mask" else channels[1] > 0
    assert (said & target).any() and not channels[2].any()


def test_the_box_is_tight():
    assert box_around(_square(10, 20, 30)) == Box(10, 20, 40, 50)


def test_an_outline_follows_the_object_and_its_parts():
    target = _square(5, 5, 20) | _square(40, 40, 15)
    drawn = _drawn(Prompt(polygons=outline(target)), target.shape)[1] > 0
    assert (drawn ^ target).sum() < 0.1 * target.sum()
    with_speck = _square(5, 5, 20) | _square(60, 60, 2)
    assert len(outline(with_speck)) == 1


@pytest.mark.parametrize("pixels", [[(3, 3)], [(3, 3), (3, 4)], [(3, 3), (3, 4), (4, 3), (4, 4)]])
def test_strokes_on_a_few_pixels_are_points_on_them(pixels):
    target = np.zeros((9, 9), bool)
    target[tuple(np.transpose(pixels))] = True
    rng = np.random.default_rng(0)
    for scribbles in [strokes(target), *(training_strokes(target, rng) for _ in range(50))]:
        check_prompt(Prompt(scribbles=scribbles))
        assert all(target[int(r), int(c)] for line in scribbles for r, c in line.points)


def test_strokes_stay_inside_and_are_interrupted_at_gaps():
    for target in (_square(10, 20, 30), _ring(), _square(5, 5, 20) | _square(40, 40, 15)):
        lines = strokes(target)
        canvas = np.zeros(target.shape, np.uint8)
        for line in lines:
            points = np.array([[c, r] for r, c in line.points], np.int32)
            cv2.polylines(canvas, [points], False, 1)
        # A thin line between two pixels of the object may cross a corner outside it.
        assert (canvas.astype(bool) & ~target).sum() <= 0.1 * canvas.sum()
    assert len(strokes(_square(5, 5, 20) | _square(40, 40, 15))) > 1


@pytest.mark.parametrize("target", SHAPES)
def test_training_prompts_mark_the_object_whatever_is_drawn(target):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        by_hand = Prompt(polygons=training_outline(target, rng))
        scribbled = Prompt(scribbles=training_strokes(target, rng))
        near = cv2.dilate(target.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        for prompt in (by_hand, scribbled):
            try:
                assert (_drawn(prompt, target.shape)[1].astype(bool) & near).any()
            except PromptError:
                pytest.fail("a training prompt lies outside the image")
        rough = rough_mask(target, rng)
        assert rough.shape == target.shape and 0.05 < rough.max() <= 1 and rough.min() >= 0


def test_a_first_negative_click_is_off_the_object_and_often_on_another():
    target, other = _square(10, 10, 20), _square(40, 40, 15)
    rng = np.random.default_rng(0)
    clicks = [training_negative(target, other, rng) for _ in range(200)]
    places = [(int(c.row), int(c.col)) for c in clicks]
    assert not any(c.positive for c in clicks) and not any(target[place] for place in places)
    assert 60 < sum(bool(other[place]) for place in places) < 150
    assert training_negative(np.ones((8, 8), bool), np.zeros((8, 8), bool), rng) is None
