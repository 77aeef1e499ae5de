"""What an annotator tells the network about one object: clicks, boxes, polygons, scribbles, a mask
and words, in pixels of the original upright image, freely combined.

How each becomes part of the network's input stands in ``model.network.rasterise``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.errors import PromptError

MAX_PROMPTS = 10_000  # clicks, boxes, polygons and scribbles of one prompt
MAX_POINTS = 100_000  # points of one prompt's polygons and scribbles
MAX_TEXT = 200  # characters

Point = tuple[float, float]  # (row, col)


@dataclass(frozen=True)
class Click:
    """A point on the object (positive) or off it."""

    row: float
    col: float
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A box around the object; edges in any order."""

    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True)
class Polygon:
    """A closed outline of the object (positive) or of something that is not it.

    Attributes:
        points: (row, col) of the corners in order; the last is joined to the first. Where the
            outline crosses itself, the even-odd rule says what is inside.
    """

    points: tuple[Point, ...]
    positive: bool = True


@dataclass(frozen=True)
class Scribble:
    """A stroke over the object (positive) or off it.

    Attributes:
        points: (row, col) along the stroke; one point is a dot.
        width: of the stroke, in pixels of the image; None: as wide as a click.
    """

    points: tuple[Point, ...]
    width: float | None = None
    positive: bool = True


@dataclass(frozen=True, eq=False)
class Prompt:
    """Everything said about one object.

    Attributes:
        clicks: clicks, oldest first.
        boxes, polygons, scribbles: all mean the same object.
        mask: float32 ``[h, w]`` probabilities in [0, 1] over the whole image at any resolution:
            what the network answered before, or a mask from elsewhere. None: there is none.
        text: words that name the object, for networks with a text branch (``model.network.text``).
    """

    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()
    polygons: tuple[Polygon, ...] = ()
    scribbles: tuple[Scribble, ...] = ()
    mask: npt.NDArray[np.float32] | None = None
    text: str | None = None

    @property
    def has_marks(self) -> bool:
        """Whether something in it is drawn: a click, a box, a polygon or a scribble."""
        return bool(self.clicks or self.boxes or self.polygons or self.scribbles)


def check_prompt(prompt: Prompt) -> None:
    """Refuse a prompt that cannot mean anything.

    What has no area (a box or polygon that is a line or a point) is no error: it is drawn as the
    line or the point.

    Raises:
        PromptError: nothing in it; more than ``MAX_PROMPTS`` items or ``MAX_POINTS`` points; a
            polygon or scribble without points; a number that is not finite; a width that is not
            above 0; a mask that is not a non-empty 2-D array of finite numbers; text that is
            blank, longer than ``MAX_TEXT`` or holds control characters.
    """
    if not prompt.has_marks and prompt.mask is None and prompt.text is None:
        raise PromptError("The prompt is empty; give a click, a box or another hint.")
    shapes: tuple[Polygon | Scribble, ...] = (*prompt.polygons, *prompt.scribbles)
    n_items = len(prompt.clicks) + len(prompt.boxes) + len(shapes)
    if n_items > MAX_PROMPTS:
        raise PromptError(f"The prompt has {n_items} items; give at most {MAX_PROMPTS}.")
    n_points = sum(len(shape.points) for shape in shapes)
    if n_points > MAX_POINTS:
        raise PromptError(f"The prompt has {n_points} points; give at most {MAX_POINTS}.")
    if not all(shape.points for shape in shapes):
        raise PromptError("A polygon or scribble has no points; draw it again.")
    try:
        finite = all(math.isfinite(number) for number in _numbers(prompt))
    except (TypeError, ValueError, OverflowError):
        finite = False
    if not finite:
        raise PromptError("A prompt's coordinate is not a finite number; give pixels of the image.")
    if any(scribble.width is not None and scribble.width <= 0 for scribble in prompt.scribbles):
        raise PromptError("A scribble has no width; give a width above 0, or none for a click's.")
    mask = prompt.mask
    if mask is not None and (mask.ndim != 2 or mask.size == 0 or not np.isfinite(mask).all()):
        raise PromptError("A mask prompt must be a non-empty 2-D array of finite probabilities.")
    if prompt.text is not None and not (
        prompt.text.strip() and len(prompt.text) <= MAX_TEXT and prompt.text.isprintable()
    ):
        raise PromptError(
            f"A text prompt must be 1 to {MAX_TEXT} printable characters; type a name."
        )


def _numbers(prompt: Prompt) -> Iterator[float]:
    for click in prompt.clicks:
        yield from (click.row, click.col)
    for box in prompt.boxes:
        yield from (box.top, box.left, box.bottom, box.right)
    for polygon in prompt.polygons:
        for row, col in polygon.points:
            yield from (row, col)
    for scribble in prompt.scribbles:
        for row, col in scribble.points:
            yield from (row, col)
        if scribble.width is not None:
            yield scribble.width
