"""Masks to one closed path, and how far that path may be off."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from model.masks import Mask
from pipeline.masks.outlines import MOST_CORNERS, outline

Points = NDArray[np.float64]


def blank(height: int = 60, width: int = 80) -> Mask:
    return np.zeros((height, width), np.bool_)


def disk(radius: float, side: int = 100) -> Mask:
    rows, columns = np.indices((side, side))
    return np.asarray((rows - side / 2) ** 2 + (columns - side / 2) ** 2 <= radius**2)


def inside(mask: Mask, path: Points) -> Mask:
    """Pixels whose centre is in a path by the even-odd rule, or on it: no help of cv2's filling."""
    rows, columns = (axis.ravel() + 0.5 for axis in np.indices(mask.shape))
    odd = np.zeros(mask.size, np.bool_)
    on = np.zeros(mask.size, np.bool_)
    for start, end in zip(path, np.roll(path, -1, axis=0), strict=True):
        (x1, y1), (x2, y2) = start, end
        crosses = (y1 > rows) != (y2 > rows)
        if y1 != y2:
            odd ^= crosses & (columns < (x2 - x1) * (rows - y1) / (y2 - y1) + x1)
        on |= to_segment(np.stack([columns, rows], 1), start, end) < 1e-6
    return (odd | on).reshape(mask.shape)


def to_segment(points: Points, start: Points, end: Points) -> Points:
    """Distances from points to a straight piece of a path."""
    along = end - start
    share = np.clip((points - start) @ along / max(float(along @ along), 1e-12), 0, 1)
    return np.asarray(np.linalg.norm(points - start - share[:, None] * along, axis=1))


def to_path(points: Points, path: Points) -> Points:
    pieces = zip(path, np.roll(path, -1, axis=0), strict=True)
    return np.asarray(np.min([to_segment(points, *piece) for piece in pieces], axis=0))


def edge(mask: Mask) -> Points:
    """Centres of the mask's pixels that touch what is not the mask."""
    whole = np.pad(mask, 1).astype(np.uint8)
    worn = cv2.erode(whole, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8))
    rows, columns = np.nonzero((whole - worn)[1:-1, 1:-1])
    return np.stack([columns + 0.5, rows + 0.5], 1)


def test_nothing_has_no_outline() -> None:
    assert outline(blank(), 0.5).shape == (0, 2)


def test_a_rectangle_has_its_four_corners_through_the_middle_of_its_pixels() -> None:
    mask = blank()
    mask[10:30, 20:50] = True
    path = outline(mask, 0.5)
    assert {tuple(corner) for corner in path.tolist()} == {
        (20.5, 10.5),
        (49.5, 10.5),
        (49.5, 29.5),
        (20.5, 29.5),
    }
    assert len(path) == 4
    assert np.array_equal(inside(mask, path), mask)


def test_all_of_an_image_is_outlined_inside_the_image() -> None:
    path = outline(~blank(), 0.5)
    assert path.min() == 0.5
    assert path.max(axis=0).tolist() == [79.5, 59.5]


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0, 5.0])
def test_no_part_of_the_edge_is_further_away_than_was_allowed(tolerance: float) -> None:
    mask = disk(40)
    mask[40:60, 30:45] = False  # a bite and a hole
    mask[10:30, 48:52] = False
    path = outline(mask, tolerance)
    assert to_path(edge(mask), path).max() <= max(tolerance, 1.0) + 1e-6
    corners = edge(mask)
    nearest = [np.linalg.norm(corners - corner, axis=1).min() for corner in path]
    assert max(nearest) <= 1.0  # each corner is on the edge


def test_more_tolerance_makes_fewer_corners() -> None:
    counts = [len(outline(disk(40), tolerance)) for tolerance in (0.5, 1, 2, 4, 8)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[-1] >= 6


def test_a_hole_stays_a_hole_by_both_rules() -> None:
    mask = disk(40)
    mask[40:60, 40:60] = False
    path = outline(mask, 0.5)
    assert np.array_equal(inside(mask, path)[41:59, 41:59], mask[41:59, 41:59])
    # The ring of the hole runs against the ring around it: what the winding rule goes by.
    x, y = path.T
    area = abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
    assert area == pytest.approx(mask.sum(), rel=0.05)


def test_parts_hang_together_by_bridges_of_no_width() -> None:
    mask = blank()
    mask[5:15, 5:15] = True
    mask[40:50, 20:40] = True
    mask[10:30, 60:70] = True
    path = outline(mask, 0.5)
    x, y = path.T
    area = abs(float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())) / 2
    assert area == 9 * 9 + 9 * 19 + 19 * 9  # through the pixels' middles
    assert (inside(mask, path) & ~mask).sum() <= 5  # only what happens to be on a bridge
    assert (inside(mask, path) & mask).sum() == mask.sum()


def test_one_pixel_is_a_path_of_no_extent_there() -> None:
    mask = blank()
    mask[7, 9] = True
    path = outline(mask, 0.5)
    assert len(path) >= 3
    assert set(map(tuple, path.tolist())) == {(9.5, 7.5)}


@pytest.mark.parametrize("down", [True, False])
def test_a_straight_line_is_outlined_along_it(down: bool) -> None:
    mask = blank()
    mask[(slice(5, 40), 20) if down else (20, slice(5, 40))] = True
    path = outline(mask, 0.5)
    assert len(path) >= 3
    assert np.array_equal(inside(mask, path), mask)


def test_a_diagonal_line_is_no_square() -> None:
    mask = blank()
    mask[np.arange(5, 45), np.arange(10, 50)] = True
    assert inside(mask, outline(mask, 0.5)).sum() < 3 * mask.sum()


@pytest.mark.parametrize("beside", [True, False])
def test_thin_parts_are_kept_beside_others(beside: bool) -> None:
    mask = blank()
    mask[5:15, 5:15] = beside
    mask[40, 10:70] = True
    mask[50, 10:50] = True
    assert (inside(mask, outline(mask, 0.5)) & mask).sum() == mask.sum()


def test_a_path_never_has_more_corners_than_a_page_can_bear() -> None:
    rng = np.random.default_rng(0)
    comb = blank(400, 1200)
    comb[0] = True
    comb[:, ::2] = True
    for mask in (rng.random((300, 400)) < 0.5, rng.random((300, 400)) < 0.01, comb):
        path = outline(mask, 0.5)
        assert 3 <= len(path) <= MOST_CORNERS
        assert (path >= 0.5).all()
        assert (path <= np.array(mask.shape[::-1]) - 0.5).all()


small_masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=12))


@settings(max_examples=150, deadline=None)
@given(small_masks, st.sampled_from([0.0, 0.5, 1.0, 3.0]))
def test_any_mask_has_a_path_of_its_own_pixels(mask: Mask, tolerance: float) -> None:
    path = outline(mask, tolerance)
    assert path.shape[1] == 2
    if not mask.any():
        assert len(path) == 0
        return
    assert 3 <= len(path) <= MOST_CORNERS
    assert (path % 1 == 0.5).all()
    rows, columns = np.nonzero(mask)
    for values, found in ((columns, path[:, 0]), (rows, path[:, 1])):
        assert values.min() + 0.5 <= found.min()
        assert found.max() <= values.max() + 0.5


@st.composite
def lumps(draw: st.DrawFn) -> Mask:
    """Blots of at least 3 x 3 pixels, maybe with holes as large, grown from a coarse grid."""
    coarse = draw(npst.arrays(np.bool_, (draw(st.integers(1, 6)), draw(st.integers(1, 6)))))
    return np.kron(coarse, np.ones((4, 4), np.bool_)).astype(np.bool_)


@settings(max_examples=150, deadline=None)
@given(lumps())
def test_blots_come_back_but_for_bridges(mask: Mask) -> None:
    path = outline(mask, 0.5)
    if not len(path):
        assert not mask.any()
        return
    assert to_path(edge(mask), path).max() <= 1.0  # the steps of a slanting edge
    found = inside(mask, path)
    assert (found & mask).sum() == mask.sum()
    # A pixel that is none of the mask is on the path itself, where it goes from part to part.
    rows, columns = np.nonzero(found & ~mask)
    if rows.size:
        assert to_path(np.stack([columns + 0.5, rows + 0.5], 1), path).max() < 1e-6
