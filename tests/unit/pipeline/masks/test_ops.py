"""PNG round trips, IoU, and tidying that never undoes a click."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from PIL import Image

from model.errors import ImageError
from model.masks import iou, resized
from pipeline.masks.ops import (
    clean,
    from_layer_png,
    from_png,
    probability_from_png,
    probability_to_png,
    smooth,
    to_png,
)

Mask = NDArray[np.bool_]
small_masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=30))


@settings(deadline=None)
@given(small_masks)
def test_a_mask_survives_its_png(mask: Mask) -> None:
    data = to_png(mask)
    assert Image.open(io.BytesIO(data)).mode == "1"
    assert np.array_equal(from_png(data), mask)


@settings(deadline=None)
@given(npst.arrays(np.float32, (5, 7), elements=st.floats(0, 1, width=32)))
def test_a_probability_survives_its_png_to_half_a_step(values: NDArray[np.float32]) -> None:
    back = probability_from_png(probability_to_png(values))
    assert back.dtype == np.float32
    assert np.abs(back - values).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("data", [b"", b"no image", to_png(np.ones((9, 9), bool))[:-30]])
def test_what_is_no_png_is_refused(data: bytes) -> None:
    for read in (from_png, probability_from_png, from_layer_png):
        with pytest.raises(ImageError):
            read(data)


def test_a_png_that_would_fill_memory_is_refused() -> None:
    header = to_png(np.ones((4, 4), bool))
    huge = header[:16] + (100_000).to_bytes(4, "big") * 2 + header[24:]
    with pytest.raises(ImageError):
        from_png(huge)


def test_iou() -> None:
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert iou(left, right) == 1
    left[:2] = True
    assert iou(left, right) == 0
    right[1:3] = True
    assert iou(left, right) == pytest.approx(1 / 3)


def blot() -> Mask:
    mask = np.zeros((100, 100), bool)
    mask[10:80, 10:80] = True
    return mask


def test_specks_go_and_pinholes_close() -> None:
    mask = blot()
    mask[90, 90] = True
    mask[40:43, 40:43] = False
    assert np.array_equal(clean(mask), blot())


def test_what_was_clicked_stays() -> None:
    mask = blot()
    mask[90, 90] = True
    mask[40:43, 40:43] = False
    assert np.array_equal(clean(mask, [(90.4, 90.9), (41, 41)]), mask)


def test_a_large_hole_and_island_stay() -> None:
    mask = blot()
    mask[30:50, 30:50] = False
    mask[85:99, 85:99] = True
    assert np.array_equal(clean(mask), mask)


@settings(deadline=None)
@given(small_masks)
def test_cleaning_is_safe_for_any_mask(mask: Mask) -> None:
    tidy = clean(mask, [(-5, 1000)])
    assert tidy.shape == mask.shape
    assert tidy.any() == mask.any()


@settings(deadline=None)
@given(small_masks)
def test_how_much_lies_around_changes_nothing(mask: Mask) -> None:
    size = mask.shape[0] + mask.shape[1]  # more than 1 % of any mask in it
    near, far = (clean(np.pad(mask, around)) for around in (size, 3 * size))
    assert np.array_equal(np.pad(near, 2 * size), far)


@pytest.mark.parametrize(
    ("top", "left"), [(50, 50), (0, 50), (50, 0), (0, 0), (100, 40), (40, 100)]
)
def test_the_outside_of_a_large_mask_is_no_hole(top: int, left: int) -> None:
    """The line around it, which is all of the outside that is looked at, is below 1 % of it."""
    mask = np.zeros((700, 700), bool)
    mask[top : top + 600, left : left + 600] = True
    assert np.array_equal(clean(mask), mask)


def test_resizing_keeps_the_body_and_its_place() -> None:
    for shape in ((50, 50), (300, 200), (100, 100)):
        mask = resized(blot(), shape)
        assert mask.shape == shape and mask.dtype == np.bool_
        assert iou(resized(mask, (100, 100)), blot()) > 0.95
        assert mask.mean() == pytest.approx(blot().mean(), abs=0.01)


def test_smoothing_rounds_and_keeps_the_body() -> None:
    noisy = blot() ^ (np.random.default_rng(0).random((100, 100)) < 0.1)
    assert iou(smooth(noisy, 2), blot()) > 0.95


def test_a_layer_is_its_opaque_or_its_bright_pixels() -> None:
    layer = np.zeros((4, 4, 4), np.uint8)
    layer[1:3, 1:3, 3] = 255
    grey = np.zeros((4, 4), np.uint8)
    grey[1:3, 1:3] = 255
    for picture in (Image.fromarray(layer), Image.fromarray(grey)):
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        assert np.array_equal(from_layer_png(buffer.getvalue()), grey > 0)
