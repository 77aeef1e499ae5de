"""The outline of a mask as one closed path, however many parts and holes it has."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.masks import Mask

MOST_CORNERS = 1000  # of one path; a page that edits more of them stutters
LEAST_CORNERS = 3

Path = NDArray[np.float64]  # [n, 2] columns and rows, in pixels; a pixel's centre is at its middle


def outline(mask: Mask, tolerance: float) -> Path:
    """One closed path around a mask, in pixels of the image.

    Parts and holes hang together by bridges of no width, walked there and back, since an outline
    in Label Studio is one path: by the even-odd rule, and by the winding rule, they change nothing.

    Args:
        mask: bool [H, W].
        tolerance: pixels that the path may be off the mask's edge (Douglas-Peucker); more where
            the path would have over ``MOST_CORNERS`` corners.

    Returns:
        float64 [n, 2] of (column, row), n at least 3; [0, 2] for an empty mask. The middle of the
        top left pixel is (0.5, 0.5).
    """
    rings, holes = _rings(mask)
    if not rings:
        return np.zeros((0, 2))
    while True:
        simple = [_simplified(ring, tolerance) for ring in rings]
        kept = [ring for ring in simple if len(ring) >= LEAST_CORNERS] or [_box(rings)]
        inner = [_simplified(hole, tolerance) for hole in holes]
        kept += [hole for hole in inner if len(hole) >= LEAST_CORNERS]
        if sum(map(len, kept)) + 2 * len(kept) <= MOST_CORNERS:
            break
        tolerance = max(2 * tolerance, 1.0)
        if tolerance > max(mask.shape):  # thousands of specks: the largest alone
            kept = kept[:1]
            break
    return _joined(kept) + 0.5


def _rings(mask: Mask) -> tuple[list[Path], list[Path]]:
    """The outer edges, the largest first, and the edges of holes, through the mask's own pixels."""
    values = np.ascontiguousarray(mask).view(np.uint8)
    contours, tree = cv2.findContours(values, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings: list[Path] = []
    holes: list[Path] = []
    for k, contour in enumerate(contours):
        path = np.asarray(contour[:, 0], np.float64)
        (holes if tree[0, k, 3] >= 0 else rings).append(path)
    return sorted(rings, key=lambda ring: -len(ring)), holes


def _simplified(ring: Path, tolerance: float) -> Path:
    found = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, closed=True)
    return np.asarray(found[:, 0], np.float64)


def _box(rings: Sequence[Path]) -> Path:
    """The corners around what has no inside: a line, or single pixels."""
    points = rings[0]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def _joined(rings: Sequence[Path]) -> Path:
    """One path through all rings: each spliced in where it comes nearest to those before it."""
    path = rings[0]
    for ring in rings[1:]:
        distance = ((path[:, None] - ring[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(distance.argmin()), distance.shape)
        around = np.concatenate([ring[there:], ring[: there + 1]])
        path = np.concatenate([path[: here + 1], around, path[here:]])
    return path
