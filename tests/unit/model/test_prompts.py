"""Prompts become the dense map the network reads, by the reference's rule to the pixel."""

from __future__ import annotations

import numpy as np
import pytest

from model.errors import PromptError
from model.prompts import MAX_PROMPTS, Box, Click, Prompt, disk_map, prompt_map


def test_a_click_is_the_disk_of_pixels_within_the_radius():
    drawn = disk_map((Click(30, 40),), (100, 100), (100, 100), 5)
    rows, cols = np.indices((100, 100))
    expected = (rows - 30) ** 2 + (cols - 40) ** 2 <= 25
    np.testing.assert_array_equal(drawn > 0, expected)


def test_coordinates_scale_per_axis_add_a_half_and_truncate():
    drawn = disk_map((Click(row=7, col=11),), (20, 50), (64, 64), 0)
    row, col = int(7 * 64 / 20 + 0.5), int(11 * 64 / 50 + 0.5)
    assert np.argwhere(drawn).tolist() == [[row, col]]


def test_a_click_outside_draws_only_what_reaches_inside():
    assert disk_map((Click(-3, 10),), (50, 50), (50, 50), 5).sum() > 0
    assert disk_map((Click(-300, 10),), (50, 50), (50, 50), 5).sum() == 0
    assert disk_map((Click(1e12, -1e12),), (50, 50), (50, 50), 5).sum() == 0


def test_channels_are_mask_positive_negative():
    mask = np.full((4, 4), 0.25, np.float32)
    prompt = Prompt((Click(10, 10), Click(40, 40, positive=False)), mask=mask)
    channels = prompt_map(prompt, (50, 50), (64, 64), 2).numpy()
    np.testing.assert_allclose(channels[0], 0.25)
    assert channels[1, 13, 13] == 1 and channels[2, 13, 13] == 0
    assert channels[2, 51, 51] == 1 and channels[1, 51, 51] == 0


def test_a_box_fills_its_region_whatever_the_order_of_its_edges():
    one = prompt_map(Prompt(boxes=(Box(10, 20, 30, 40),)), (64, 64), (64, 64), 5)
    other = prompt_map(Prompt(boxes=(Box(30, 40, 10, 20),)), (64, 64), (64, 64), 5)
    assert one[1].sum() == 20 * 20 and one[1, 10:30, 20:40].min() == 1
    assert bool((one == other).all())


@pytest.mark.parametrize("box", [Box(5, 5, 5, 5), Box(-9, -9, -5, -5), Box(900, 900, 950, 950)])
def test_a_degenerate_box_still_marks_a_pixel(box):
    assert prompt_map(Prompt(boxes=(box,)), (64, 64), (32, 32), 5)[1].sum() >= 1


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt((Click(float("nan"), 1),)),
        Prompt((Click(1, float("inf")),)),
        Prompt(boxes=(Box(0, 0, float("nan"), 1),)),
        Prompt((Click(1, 1),), mask=np.zeros((0, 4), np.float32)),
        Prompt((Click(1, 1),), mask=np.zeros(4, np.float32)),
        Prompt((Click(1, 1),), mask=np.full((2, 2), np.nan, np.float32)),
        Prompt((Click(1, 1),) * (MAX_PROMPTS + 1)),
    ],
)
def test_a_prompt_without_meaning_is_refused_in_a_sentence(prompt):
    with pytest.raises(PromptError, match=r"\.$"):
        prompt_map(prompt, (10, 10), (32, 32), 5)
