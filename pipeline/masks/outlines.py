"""The outline of a mask as one closed path, however many parts and holes it has."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from model.masks import Mask

MOST_CORNERS = 1000  # of one path; the page becomes slow when it edits more
MOST_RINGS = 150  # most parts, and most holes; the smallest are left out
LEAST_CORNERS = 3

Path = NDArray[np.float64]  # [n, 2] of (column, row), in pixels


def outline(mask: Mask, tolerance: float) -> Path:
    """One closed path around a mask, in pixels of the image.

    An outline in Label Studio is one path, so parts and holes are joined by bridges without width.
    The path follows each bridge in both directions, so bridges change nothing, neither by the
    even-odd rule nor by the winding rule.

    Args:
        mask: bool [H, W].
        tolerance: pixels that the path may be off the mask's edge; it is raised if the path would
            have more than ``MOST_CORNERS`` corners. Corners are dropped by the method of Douglas
            and Peucker (1973), "Algorithms for the reduction of the number of points required to
            represent a digitized line or its caricature".

    Returns:
        float64 [n, 2] of (column, row), n at least 3; [0, 2] for an empty mask. The middle of the
        top left pixel is (0.5, 0.5).
    """
    rings, holes = _rings(mask)
    if not rings:
        return np.zeros((0, 2))
    rings, holes = rings[:MOST_RINGS], holes[:MOST_RINGS]
    while True:
        parts = [_closed(_simplified(ring, tolerance)) for ring in rings]
        inner = [_simplified(hole, tolerance) for hole in holes]
        parts += [hole for hole in inner if len(hole) >= LEAST_CORNERS]
        if sum(map(len, parts)) + 2 * len(parts) <= MOST_CORNERS:
            return _joined(parts) + 0.5
        if tolerance > max(mask.shape):  # Hundreds of specks: keep the largest.
            return parts[0] + 0.5
        tolerance = max(2 * tolerance, 1.0)


def parted(path: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The rings of a path, int32 [n, 2], without the bridges between them.

    A bridge is an edge that the path follows in both directions. Rings without area are not cut
    off, and a path with more corners or rings than ``outline`` ever gives is returned as it is.
    """
    if len(path) > 2 * MOST_CORNERS:
        return [path]
    done: list[NDArray[np.int32]] = []
    waiting = [path]
    while waiting:
        halves = _halves(waiting.pop())
        if len(halves) == 1:
            done += halves
        else:
            waiting += halves
        if len(done) + len(waiting) > 2 * MOST_RINGS:
            return [path]
    return done


def _halves(path: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The two parts of a path on both sides of its first bridge; the path itself without one."""
    places = [tuple(corner) for corner in path.tolist()]
    first: dict[tuple[object, object], int] = {}
    for k, edge in enumerate(zip(places, places[1:], strict=False)):
        there = first.get((edge[1], edge[0]))
        if there is not None:
            inner = path[there + 1 : k + 1]
            outer = np.concatenate([path[: there + 1], path[k + 2 :]])
            if min(map(_area, (inner, outer))) > 0:
                return [inner, outer]
        first.setdefault(edge, k)
    return [path]


def _area(ring: NDArray[np.int32]) -> float:
    return float(cv2.contourArea(ring)) if len(ring) >= LEAST_CORNERS else 0.0


def _rings(mask: Mask) -> tuple[list[Path], list[Path]]:
    """The outer edges, and the edges of holes, along the mask's own pixels; the longest first."""
    values = np.ascontiguousarray(mask).view(np.uint8)
    contours, tree = cv2.findContours(values, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings: list[Path] = []
    holes: list[Path] = []
    for k, contour in enumerate(contours):
        path = np.asarray(contour[:, 0], np.float64)
        (holes if tree[0, k, 3] >= 0 else rings).append(path)
    return sorted(rings, key=len, reverse=True), sorted(holes, key=len, reverse=True)


def _simplified(ring: Path, tolerance: float) -> Path:
    found = cv2.approxPolyDP(ring.astype(np.float32)[:, None], tolerance, closed=True)
    return np.asarray(found[:, 0], np.float64)


def _closed(ring: Path) -> Path:
    """A ring with at least ``LEAST_CORNERS``: for a line or a pixel, the last one is repeated."""
    missing = LEAST_CORNERS - len(ring)
    return np.concatenate([ring, np.repeat(ring[-1:], max(missing, 0), axis=0)])


def _joined(rings: Sequence[Path]) -> Path:
    """One path through all rings. Each ring is inserted where it is nearest to those before it."""
    path = rings[0]
    for ring in rings[1:]:
        distance = ((path[:, None] - ring[None]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(distance.argmin()), distance.shape)
        around = np.concatenate([ring[there:], ring[: there + 1]])
        path = np.concatenate([path[: here + 1], around, path[here:]])
    return path
