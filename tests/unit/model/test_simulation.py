"""Simulated annotators click where the field's evaluation says."""

from __future__ import annotations

import numpy as np

from model.prompts import Click
from model.simulation import depth, next_click, training_box, training_click


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
