"""How alike two masks are, and masks at another resolution."""

from __future__ import annotations

import numpy as np
import pytest

from model.masks import iou, resized, resized_by_area


def square(size: int, top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_iou_by_hand() -> None:
    first, second = square(10, 0, 0, 4), square(10, 2, 0, 4)
    assert iou(first, second) == 8 / 24
    assert iou(first, first) == 1 and iou(first, square(10, 6, 6, 2)) == 0
    empty = np.zeros((10, 10), bool)
    assert iou(empty, empty) == 1 and iou(empty, first) == 0


@pytest.mark.parametrize("resize", [resized, resized_by_area])
def test_a_mask_keeps_its_place_at_another_resolution(resize) -> None:
    mask = square(12, 4, 8, 4)
    assert np.array_equal(resize(mask, (6, 6)), square(6, 2, 4, 2))
    assert resize(mask, (24, 24)).dtype == bool
    assert np.array_equal(resize(mask, (12, 12)), mask)
    assert np.array_equal(resize(mask[:, ::-1], (6, 6)), square(6, 2, 0, 2))  # not contiguous
    assert resize(mask, (3, 24)).shape == (3, 24)


def test_by_area_a_pixel_belongs_where_half_of_it_did() -> None:
    mask = np.array([[True, False, True, True], [True, False, True, False]])
    assert resized_by_area(mask, (1, 2)).tolist() == [[True, True]]
    mask = np.array([[True, False, True, False], [False, False, True, False]])
    assert resized_by_area(mask, (1, 2)).tolist() == [[False, True]]
    lines = np.zeros((9, 9), bool)
    lines[4] = True  # a third of the pixels in the middle
    assert not resized_by_area(lines, (3, 3)).any()
