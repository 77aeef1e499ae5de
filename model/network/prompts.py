"""What an annotator says about one object: clicks, boxes, polygons, scribbles, a mask and words.

They can be freely combined. Coordinates are pixels of the original upright image.
``model.network.rasterise`` says how each kind becomes part of the network's input.
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
    """A point on the object (positive) or off it (negative)."""

    row: float
    col: float
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A box around the object; opposite edges may be given in any order."""

    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True)
class Polygon:
    """A closed outline of the object (positive) or of something else (negative).

    Attributes:
        points: (row, col) of the corners in order; the last is joined to the first. Where the
            outline crosses itself, the even-odd rule says what is inside.
        positive: whether the object is outlined.
    """

    points: tuple[Point, ...]
    positive: bool = True


@dataclass(frozen=True)
class Scribble:
    """A stroke over the object (positive) or off it (negative).

    Attributes:
        points: (row, col) along the stroke; one point is a dot.
        width: of the stroke, in pixels of the image; None: as wide as a click.
        positive: whether the stroke is on the object.
    """

    points: tuple[Point, ...]
    width: float | None = None
    positive: bool = True


@dataclass(frozen=True, eq=False)
class Prompt:
    """Everything said about one object.

    Attributes:
        clicks: clicks, the oldest first.
        boxes, polygons, scribbles: further marks; they all mean the same object.
        mask: probabilities over the whole image at any resolution, float32 ``[h, w]`` in [0, 1]:
            the network's previous answer, or a mask from elsewhere. None: no mask.
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
        """Whether it holds a click, a box, a polygon or a scribble."""
        return bool(self.clicks or self.boxes or self.polygons or self.scribbles)


def check_prompt(prompt: Prompt) -> None:
    """Refuse a prompt that cannot mean anything.

    A box or polygon without an area is no error: it is drawn as the line or the point that it is.

    Raises:
        PromptError: the prompt is empty; it has more than ``MAX_PROMPTS`` items or ``MAX_POINTS``
            points, a polygon or scribble without points, a number that is not finite, a width that
            is not above 0, a mask that is not a non-empty 2-D array of finite numbers, or text that
            is blank, longer than ``MAX_TEXT`` or not printable.
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
    """All coordinates and widths of a prompt."""
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
