"""Masks and probabilities of an answer, over a whole image and over a window of one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.network.prediction import CANVAS, Prediction, Window, restore_size


def _logits(rows, cols, seed=0):
    coarse = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed)) * 4
    return F.interpolate(coarse, (rows, cols), mode="bicubic")[0, 0]


def test_the_whole_image_is_restored_by_the_reference_s_two_steps():
    logits = _logits(24, 32)
    prediction = Prediction(logits, (96, 128), (300, 411), 0.49)
    at_input = F.interpolate(logits[None, None], (96, 128), mode="bilinear", align_corners=True)
    plain = F.interpolate(at_input, (300, 411), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_array_equal(prediction.full(), plain.sigmoid().numpy())
    np.testing.assert_array_equal(prediction.probability, logits.sigmoid().numpy())
    np.testing.assert_array_equal(prediction.mask(), prediction.full() > 0.49)
    assert 0 < prediction.mask().mean() < 1


def test_the_answer_of_a_window_is_zero_outside_it():
    logits, window = _logits(24, 32), Window(40, 100, 140, 260)
    prediction = Prediction(logits, (96, 128), (300, 411), 0.49, window)
    alone = Prediction(logits, (96, 128), window.size, 0.49)
    for whole, part in ((prediction.full(), alone.full()), (prediction.mask(), alone.mask())):
        assert whole.shape == (300, 411)
        np.testing.assert_array_equal(whole[window.slices], part)
        whole[window.slices] = 0
        assert not whole.any()
    assert prediction.score == alone.score


@pytest.mark.parametrize(
    ("image", "window"),
    [
        ((300, 411), Window(40, 100, 140, 260)),
        ((6000, 4000), Window(2000, 1000, 2600, 1800)),
        ((100, 100), Window(90, 80, 100, 100)),
        ((50, 50), Window(0, 0, 50, 50)),
    ],
)
def test_the_previous_mask_of_a_window_agrees_with_the_full_map(image, window):
    prediction = Prediction(_logits(24, 32) / 4, (96, 128), image, 0.49, window)
    previous = prediction.probability
    assert previous.dtype == np.float32 and max(previous.shape) <= CANVAS
    if max(previous.shape) < CANVAS:  # as fine as the logits
        assert previous.shape[0] / image[0] == pytest.approx(24 / window.size[0], rel=0.01)
    grown = F.interpolate(torch.from_numpy(previous)[None, None], image, mode="bilinear")
    difference = np.abs(grown[0, 0].numpy() - prediction.full())
    # More than two cells inside the window, only the coarser sampling makes a difference.
    rows, cols = (2 * -(-side // cells) for side, cells in zip(window.size, (24, 32), strict=True))
    inner = Window(window.top + rows, window.left + cols, window.bottom - rows, window.right - cols)
    if min(inner.size) > 0:
        assert difference[inner.slices].max() < 0.03
    difference[
        max(window.top - rows, 0) : window.bottom + rows,
        max(window.left - cols, 0) : window.right + cols,
    ] = 0
    assert not difference.any()


@st.composite
def answers(draw):
    """Answers of any shape: objects, specks, holes, ramps and empty ones, near the threshold and
    far from it."""
    rows, cols = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    image = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["noise", "blobs", "specks", "flat"]))
    logits = {
        "noise": random.normal(0, draw(st.sampled_from([1e-3, 1, 1e3])), (rows, cols)),
        "blobs": _logits(rows, cols, int(random.integers(1000))).numpy(),
        "specks": np.where(random.random((rows, cols)) < 0.01, 5.0, -40.0),
        "flat": np.full((rows, cols), random.choice([-9.0, -0.04, 0.0, 9.0])),
    }[kind]
    window = None
    if draw(st.booleans()):
        top, left = draw(st.integers(0, image[0] - 1)), draw(st.integers(0, image[1] - 1))
        bottom, right = draw(st.integers(top + 1, image[0])), draw(st.integers(left + 1, image[1]))
        window = Window(top, left, bottom, right)
    threshold = draw(st.sampled_from([0.01, 0.49, 0.5, 0.9, 0.999999]))
    tensor = torch.from_numpy(logits.astype(np.float32))
    return Prediction(tensor, (4 * rows, 4 * cols), image, threshold, window)


@settings(max_examples=300, deadline=None)
@given(answers())
def test_the_mask_is_the_full_map_cut_at_the_threshold(prediction):
    np.testing.assert_array_equal(prediction.mask(), prediction.full() > prediction.threshold)


@pytest.mark.parametrize("radius", [0.02, 0.3, 2])
@pytest.mark.parametrize("size", [(6000, 4000), (1, 1), (1, 5000), (50_000, 1), (100, 100)])
def test_the_mask_is_the_full_map_s_on_large_and_odd_images_too(size, radius):
    rows, cols = (torch.linspace(-0.5, 0.5, n) for n in (96, 64))
    distance = (rows[:, None] ** 2 + cols[None] ** 2).sqrt()
    prediction = Prediction((radius - distance) * 60, (384, 256), size, 0.49)
    mask = prediction.mask()
    np.testing.assert_array_equal(mask, prediction.full() > 0.49)
    assert mask.any() and (mask.all() == (radius > 1) or min(size) == 1)


def test_a_mask_of_fifty_megapixels_takes_little_more_memory_than_itself():
    script = """
import resource, torch
from model.network.prediction import Prediction
torch.set_num_threads(1)
def answer(size):
    return Prediction(torch.linspace(-5, 5, 256).expand(256, 256), (1024, 1024), size, 0.49)
answer((500, 500)).mask()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mask = answer((6000, 8000)).mask()
assert 0 < mask.mean() < 1
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 48 + 64  # MB; one map of numbers alone would be 192


def test_a_window_smaller_than_a_cell_of_the_canvas_leaves_it_empty():
    prediction = Prediction(_logits(24, 32), (96, 128), (6000, 6000), 0.49, Window(1, 0, 2, 1))
    assert prediction.mask().sum() <= 1 and not prediction.probability.any()


def test_restored_logits_have_the_size_asked_for():
    assert restore_size(torch.zeros(2, 1, 4, 4), (16, 16), (7, 1)).shape == (2, 1, 7, 1)
