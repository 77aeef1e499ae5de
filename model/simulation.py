"""Simulated annotators: where the next click goes, given the object and the current mask."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from model.prompts import Box, Click

Mask = npt.NDArray[np.bool_]


def depth(region: Mask) -> npt.NDArray[np.float32]:
    """Euclidean distance of each pixel of ``region`` (bool ``[H, W]``) to the nearest pixel
    outside; the image border counts as outside. float32 ``[H, W]``, 0 outside the region."""
    padded = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance[1:-1, 1:-1], np.float32)


def next_click(
    target: Mask, predicted: Mask, used: Mask, known: Mask | None = None
) -> Click | None:
    """The field's evaluation click: the deepest pixel of the larger of the two error regions
    (compared by their greatest depth, as the SegNext evaluation and its forerunners do).

    Args:
        target, predicted: bool ``[H, W]``.
        used: bool ``[H, W]``, pixels clicked before; none is clicked twice. Changed in place.
        known: bool ``[H, W]``, pixels that count; None: all.

    Returns:
        The click, or None when nothing is wrong any more.
    """
    missed, extra = target & ~predicted, predicted & ~target
    if known is not None:
        missed, extra = missed & known, extra & known
    missed_depth, extra_depth = depth(missed), depth(extra)
    missed_depth[used] = 0
    extra_depth[used] = 0
    positive = bool(missed_depth.max() > extra_depth.max())
    chosen = missed_depth if positive else extra_depth
    if chosen.max() <= 0:
        return None
    row, col = np.unravel_index(int(chosen.argmax()), chosen.shape)
    used[row, col] = True
    return Click(float(row), float(col), positive)


def training_click(target: Mask, predicted: Mask, rng: np.random.Generator) -> Click | None:
    """The next click of a training annotator: a random pixel of the inner half (depth above half
    the maximum) of the larger error region. None when nothing is wrong."""
    missed, extra = target & ~predicted, predicted & ~target
    missed_depth, extra_depth = depth(missed), depth(extra)
    positive = bool(missed_depth.max() > extra_depth.max())
    chosen = missed_depth if positive else extra_depth
    if chosen.max() <= 0:
        return None
    candidates = np.flatnonzero(chosen > chosen.max() / 2)
    row, col = np.unravel_index(int(rng.choice(candidates)), chosen.shape)
    return Click(float(row), float(col), positive)


def training_box(target: Mask, rng: np.random.Generator, jitter: float = 0.1) -> Box:
    """The box around a non-empty ``target`` with each edge moved by up to ``jitter`` of its
    side."""
    rows, cols = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
    height, width = bottom - top, right - left
    shift = rng.uniform(-jitter, jitter, 4) * (height, width, height, width)
    return Box(
        float(top + shift[0]),
        float(left + shift[1]),
        float(bottom + shift[2]),
        float(right + shift[3]),
    )
