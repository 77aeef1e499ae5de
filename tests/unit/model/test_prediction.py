"""An answer keeps its place and its numbers, over a whole image and over a window of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.prediction import CANVAS, Prediction, Window, restore_size


def _logits(rows, cols, seed=0):
    coarse = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(seed)) * 4
    return F.interpolate(coarse, (rows, cols), mode="bicubic")[0, 0]


def test_the_whole_image_is_the_reference_s_two_steps():
    logits = _logits(24, 32)
    prediction = Prediction(logits, (96, 128), (300, 411), 0.49)
    at_input = F.interpolate(logits[None, None], (96, 128), mode="bilinear", align_corners=True)
    plain = F.interpolate(at_input, (300, 411), mode="bilinear", align_corners=False)[0, 0]
    np.testing.assert_array_equal(prediction.full(), plain.sigmoid().numpy())
    np.testing.assert_array_equal(prediction.probability, logits.sigmoid().numpy())
    np.testing.assert_array_equal(prediction.mask(), prediction.full() > 0.49)
    assert 0 < prediction.mask().mean() < 1


def test_a_windowed_answer_is_the_windows_own_and_nothing_outside():
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
def test_the_previous_mask_of_a_window_says_what_the_full_map_says(image, window):
    prediction = Prediction(_logits(24, 32) / 4, (96, 128), image, 0.49, window)
    previous = prediction.probability
    assert previous.dtype == np.float32 and max(previous.shape) <= CANVAS
    if max(previous.shape) < CANVAS:  # as fine as the logits
        assert previous.shape[0] / image[0] == pytest.approx(24 / window.size[0], rel=0.01)
    grown = F.interpolate(torch.from_numpy(previous)[None, None], image, mode="bilinear")
    difference = np.abs(grown[0, 0].numpy() - prediction.full())
    # Inside by more than two cells, nothing but the coarser sampling tells them apart.
    rows, cols = (2 * -(-side // cells) for side, cells in zip(window.size, (24, 32), strict=True))
    inner = Window(window.top + rows, window.left + cols, window.bottom - rows, window.right - cols)
    if min(inner.size) > 0:
        assert difference[inner.slices].max() < 0.03
    difference[
        max(window.top - rows, 0) : window.bottom + rows,
        max(window.left - cols, 0) : window.right + cols,
    ] = 0
    assert not difference.any()


def test_a_window_smaller_than_a_cell_of_the_canvas_leaves_it_empty():
    prediction = Prediction(_logits(24, 32), (96, 128), (6000, 6000), 0.49, Window(1, 0, 2, 1))
    assert prediction.mask().sum() <= 1 and not prediction.probability.any()


def test_restored_logits_have_the_size_asked_for():
    assert restore_size(torch.zeros(2, 1, 4, 4), (16, 16), (7, 1)).shape == (2, 1, 7, 1)
