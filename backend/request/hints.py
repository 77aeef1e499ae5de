"""Reads the shapes and strokes that an annotator drew for the model, which only drafts hold.

Labels of the tools for such hints have ``model_hint`` in the labelling config
(``pipeline.labelstudio.config``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from backend.request.prompts import Mark, Place
from backend.request.question import Region, TaskView, words_mark
from model.errors import MaskloopError
from model.masks import Mask
from model.network.prompts import MAX_POINTS
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.numbers import number, percent
from pipeline.labelstudio.regions import label_of, mask_of
from pipeline.labelstudio.strokes import places, strokes, strokes_mask
from pipeline.masks.outlines import outline

log = logging.getLogger(__name__)

MOST_HINTS = 100  # newest hints of a task that are read
MOST_HINT_POINTS = MAX_POINTS // 2  # leaves the other half to the request's own marks
ELLIPSE_CORNERS = 48  # of the polygon that an ellipse becomes
OUTLINE_TOLERANCE = 0.5  # pixels that an outline may be off the painted mask


def read_hints(view: TaskView, config: LabelConfig, height: int, width: int) -> list[Mark]:
    """The hints on a task as marks in pixels of its image, oldest first.

    A hint that cannot be read is left out, because it must not prevent the answer to a click.
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
        if points <= MOST_HINT_POINTS:
            kept.append(mark)
    return kept[::-1]


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
        points = places(value.get("points"), height, width)
        if points:
            yield _area(name, positive, points)
    elif kind == "brush" and isinstance(value.get("touches"), list):
        yield from _brush(name, region, value["touches"], positive, height, width)
    else:  # The hint is painted pixels, or a curve.
        mask = mask_of(region)
        if mask is not None and mask.any():
            yield from _painted(name, mask, positive, height, width)


def _brush(
    name: str, region: Region, touches: list[Any], positive: bool, height: int, width: int
) -> Iterator[Mark]:
    """One mark for each stroke; if parts were erased, one area for what is left."""
    drawn = list(strokes(touches, height, width))
    if all(adds for _, _, adds in drawn):
        for k, (points, thickness, _) in enumerate(drawn):
            middle = points[len(points) // 2]
            yield Mark(f"{name}/{k}", "scribble", positive, *middle, points=points, width=thickness)
        return
    mask = strokes_mask(region)
    if mask is not None and mask.any():
        yield from _painted(name, mask, positive, height, width)


def _painted(name: str, mask: Mask, positive: bool, height: int, width: int) -> Iterator[Mark]:
    scale = (width / mask.shape[1], height / mask.shape[0])
    path = outline(mask, OUTLINE_TOLERANCE) * scale
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
