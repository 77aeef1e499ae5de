"""What an annotator drew for the model: shapes and strokes that Label Studio keeps in drafts only.

The tools to draw with carry ``model_hint`` in the labelling config
(``pipeline.labelstudio.config``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from backend.click.prompts import Mark, Place
from backend.click.request import (
    Region,
    TaskView,
    bounded,
    number,
    percent,
    words_mark,
)
from model.errors import MaskloopError, PromptError
from model.masks import Mask, resized
from model.network.prompts import MAX_POINTS
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import label_of, mask_of
from pipeline.masks.outlines import outline

log = logging.getLogger(__name__)

MOST_HINTS = 100  # of a task, the newest
MOST_POINTS = 2000  # of one stroke or outline
CANVAS = 1024  # longest side that strokes with erased parts are painted at
ELLIPSE_CORNERS = 48
BROADEST = 10_000  # pixels of a stroke; cv2 draws no line of 32768


def read_hints(view: TaskView, config: LabelConfig, height: int, width: int) -> list[Mark]:
    """The hints on a task as marks in pixels of its image, oldest first.

    One that cannot be read is left out: somebody else's damage must not cost a click its answer.
    """
    newest: list[list[Mark]] = []
    for name in reversed(list(view.drawn)):
        region = view.drawn[name]
        if sum(map(len, newest)) >= MOST_HINTS:
            break
        tag = region.get("from_name")
        hint = config.hint(tag, label_of(region))
        try:
            if hint is not None:
                newest.append(list(_marks(name, region, hint.positive, height, width)))
            elif tag is not None and tag == config.text_tag:
                newest.append([words_mark(name, region)])
        except MaskloopError as error:
            log.info("A hint was left out: %s", error)
    found = [mark for marks in reversed(newest) for mark in marks]
    kept, points = [], 0
    for mark in reversed(found[-MOST_HINTS:]):
        points += len(mark.points)
        if points <= MAX_POINTS // 2:
            kept.append(mark)
    return kept[::-1]


def strokes_mask(region: Region, under: Mask | None = None) -> Mask | None:
    """What the strokes of a brush region paint, at ``CANVAS`` pixels a side at most: they are no
    pixels until it is submitted. None for what has no strokes.

    Args:
        under: what they are painted over, or erased from, at any resolution.
    """
    value = region.get("value")
    touches = value.get("touches") if isinstance(value, Mapping) else None
    height, width = region.get("original_height"), region.get("original_width")
    if not isinstance(touches, list) or not isinstance(height, int) or not isinstance(width, int):
        return None
    if not (0 < height <= 100_000 and 0 < width <= 100_000):
        return None
    shrink = min(1.0, CANVAS / max(height, width))
    shape = max(round(height * shrink), 1), max(round(width * shrink), 1)
    canvas = np.zeros(shape, np.uint8) if under is None else resized(under, shape).astype(np.uint8)
    for points, thickness, adds in _strokes(touches, *shape):
        path = np.rint(np.array(points) * 16).astype(np.int32)
        line = max(round(min(thickness, BROADEST)), 1)
        cv2.polylines(canvas, [path], False, int(adds), line, cv2.LINE_8, shift=4)
    return canvas.astype(np.bool_)


def _marks(name: str, region: Region, positive: bool, height: int, width: int) -> Iterator[Mark]:
    value = region.get("value")
    if not isinstance(value, Mapping):
        return
    kind = str(region.get("type", "")).removesuffix("labels")
    if kind == "keypoint":
        x, y = percent(value, "x"), percent(value, "y")
        yield Mark(name, "click", positive, x, y).on_image(height, width)
    elif kind == "ellipse":
        yield _area(name, positive, _ellipse(value, height, width))
    elif kind == "rectangle":
        x, y = percent(value, "x"), percent(value, "y")
        x2, y2 = x + percent(value, "width"), y + percent(value, "height")
        box = Mark(name, "box", True, x, y, x2, y2, number(value.get("rotation") or 0))
        if positive:
            yield box.on_image(height, width)
        else:
            yield _area(name, False, box.corners(height, width))
    elif kind == "polygon":
        points = _places(value.get("points"), height, width)
        if points:
            yield _area(name, positive, points)
    elif kind == "brush" and isinstance(value.get("touches"), list):
        yield from _brush(name, region, value["touches"], positive, height, width)
    else:  # pixels, or a curve
        mask = mask_of(region)
        if mask is not None and mask.any():
            yield from _painted(name, mask, positive, height, width)


def _brush(
    name: str, region: Region, touches: list[Any], positive: bool, height: int, width: int
) -> Iterator[Mark]:
    """Each stroke as one mark; as one area, where some of it was erased."""
    strokes = list(_strokes(touches, height, width))
    if all(adds for _, _, adds in strokes):
        for k, (points, thickness, _) in enumerate(strokes):
            middle = points[len(points) // 2]
            yield Mark(f"{name}/{k}", "scribble", positive, *middle, points=points, width=thickness)
        return
    mask = strokes_mask(region)
    if mask is not None and mask.any():
        yield from _painted(name, mask, positive, height, width)


def _painted(name: str, mask: Mask, positive: bool, height: int, width: int) -> Iterator[Mark]:
    scale = (width / mask.shape[1], height / mask.shape[0])
    path = outline(mask, 0.5) * scale
    yield _area(name, positive, [(float(x), float(y)) for x, y in path])


def _area(name: str, positive: bool, corners: list[Any]) -> Mark:
    points = tuple((round(float(x), 2), round(float(y), 2)) for x, y in corners)
    x, y = np.mean(points, axis=0).tolist()
    return Mark(name, "polygon", positive, x, y, points=points)


def _ellipse(value: Mapping[str, Any], height: int, width: int) -> list[Place]:
    x, y = percent(value, "x") / 100 * width, percent(value, "y") / 100 * height
    across, down = percent(value, "radiusX") / 100, percent(value, "radiusY") / 100
    turn = math.radians(number(value.get("rotation") or 0))
    cosine, sine = math.cos(turn), math.sin(turn)
    corners = []
    for k in range(ELLIPSE_CORNERS):
        angle = 2 * math.pi * k / ELLIPSE_CORNERS
        a, b = across * width * math.cos(angle), down * height * math.sin(angle)
        corners.append((x + a * cosine - b * sine, y + a * sine + b * cosine))
    return corners


def _strokes(
    touches: list[Any], height: int, width: int
) -> Iterator[tuple[tuple[Place, ...], float, bool]]:
    """Points and width in pixels of each stroke, and whether it adds."""
    for touch in touches:
        if not isinstance(touch, Mapping):
            continue
        flat = touch.get("relativePoints")
        if not isinstance(flat, list) or len(flat) < 2:
            continue
        pairs = [flat[k : k + 2] for k in range(0, len(flat) - 1, 2)]
        thickness = percent(touch, "relativeStrokeWidth", 1) / 100 * width
        points = tuple(_places(pairs, height, width))
        yield points, round(max(thickness, 1.0), 2), touch.get("type") != "eraser"


def _places(value: Any, height: int, width: int) -> list[Place]:
    """[x, y] pairs in percent as pixels; of very many, every so many."""
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in value
    ):
        raise PromptError("A drawing has a point that is no pair of numbers; draw it again.")
    step = -(-len(value) // MOST_POINTS)
    return [
        (round(bounded(x) / 100 * width, 2), round(bounded(y) / 100 * height, 2))
        for x, y in value[:: step or 1]
    ]
