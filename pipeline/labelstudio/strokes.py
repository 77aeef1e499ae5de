"""The strokes of a brush region, which become pixels only when the region is submitted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from model.errors import PromptError
from model.masks import Mask, resized
from pipeline.labelstudio.numbers import bounded, percent

MOST_POINTS = 2000  # of one stroke or outline
CANVAS = 1024  # longest side that strokes are painted at, in pixels
BROADEST = 10_000  # pixels of a stroke's width; cv2 cannot draw a line of 32768
DEFAULT_WIDTH = 1  # percent of the image's width, for a stroke that names none
LONGEST_SIDE = 100_000  # pixels of an image; no real image has more
SUBPIXEL_BITS = 4  # cv2 takes points as fixed-point numbers

Place = tuple[float, float]  # (x, y)


def strokes_mask(region: Mapping[str, Any], under: Mask | None = None) -> Mask | None:
    """The mask that the strokes of a brush region paint; None for a region without strokes.

    Args:
        under: the mask that they are painted over or erased from, bool, at any resolution.

    Returns:
        bool [h, w], with at most ``CANVAS`` pixels a side.

    Raises:
        PromptError: a point of a stroke is not a pair of numbers.
    """
    value = region.get("value")
    touches = value.get("touches") if isinstance(value, Mapping) else None
    height, width = region.get("original_height"), region.get("original_width")
    if not isinstance(touches, list) or not isinstance(height, int) or not isinstance(width, int):
        return None
    if not (0 < height <= LONGEST_SIDE and 0 < width <= LONGEST_SIDE):
        return None
    shrink = min(1.0, CANVAS / max(height, width))
    shape = max(round(height * shrink), 1), max(round(width * shrink), 1)
    canvas = np.zeros(shape, np.uint8) if under is None else resized(under, shape).astype(np.uint8)
    for points, thickness, adds in strokes(touches, *shape):
        path = np.rint(np.array(points) * 2**SUBPIXEL_BITS).astype(np.int32)
        line = max(round(min(thickness, BROADEST)), 1)
        cv2.polylines(canvas, [path], False, int(adds), line, cv2.LINE_8, shift=SUBPIXEL_BITS)
    return canvas.astype(np.bool_)


def strokes(
    touches: list[Any], height: int, width: int
) -> Iterator[tuple[tuple[Place, ...], float, bool]]:
    """Points and width of each stroke, in pixels of an image of this size, and whether it adds.

    Raises:
        PromptError: a point is not a pair of numbers.
    """
    for touch in touches:
        if not isinstance(touch, Mapping):
            continue
        flat = touch.get("relativePoints")
        if not isinstance(flat, list) or len(flat) < 2:
            continue
        pairs = [flat[k : k + 2] for k in range(0, len(flat) - 1, 2)]
        thickness = percent(touch, "relativeStrokeWidth", DEFAULT_WIDTH) / 100 * width
        points = tuple(places(pairs, height, width))
        yield points, round(max(thickness, 1.0), 2), touch.get("type") != "eraser"


def places(value: Any, height: int, width: int) -> list[Place]:
    """Pairs [x, y] in percent, as pixels. Of more than ``MOST_POINTS``, evenly spaced ones stay.

    Raises:
        PromptError: the value is not a list of pairs of numbers.
    """
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in value
    ):
        raise PromptError("A drawing has a point that is not a pair of numbers; draw it again.")
    step = -(-len(value) // MOST_POINTS)
    return [
        (round(bounded(x) / 100 * width, 2), round(bounded(y) / 100 * height, 2))
        for x, y in value[:: step or 1]
    ]
