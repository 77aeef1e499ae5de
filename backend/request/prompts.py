"""A *mark* is one hint about an object: a click, a box, an outline, a stroke or words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from model.masks import Mask
from model.network.prompts import Box, Click, Point, Polygon, Prompt, Scribble

Kind = Literal["click", "box", "polygon", "scribble", "text"]
Place = tuple[float, float]  # (x, y)


@dataclass(frozen=True, slots=True)
class Mark:
    """One click, box, outline, stroke or text.

    Attributes:
        positive: whether it shows what belongs to the object, or what does not.
        x, y: the place of a click, the first corner of a box, or the middle of a drawing. It is in
            percent of the image as Label Studio sends it, and in pixels after ``on_image``.
        x2, y2: the other corner of a box, in the same unit; None for all other kinds.
        turn: degrees by which a box is turned clockwise about (x, y); 0 after ``on_image``.
        points: (x, y) of an outline's corners, or along a stroke, in pixels.
        width: width of a stroke in pixels; None: as wide as a click.
        text: the words of a text.
        group: the label of clicks whose label no mask can carry, because Label Studio sends those
            together and apart from others; else empty.
    """

    id: str
    kind: Kind
    positive: bool
    x: float = 0.0
    y: float = 0.0
    x2: float | None = None
    y2: float | None = None
    turn: float = 0.0
    points: tuple[Place, ...] = ()
    width: float | None = None
    text: str | None = None
    group: str = ""

    def on_image(self, height: int, width: int) -> Mark:
        """The same click or box in pixels of an image; a turned box becomes the upright one around
        it."""
        if self.x2 is None or self.y2 is None:
            x, y = self.x / 100 * width, self.y / 100 * height
            return replace(self, x=_clip(x, width), y=_clip(y, height))
        xs, ys = zip(*self.corners(height, width), strict=True)
        return replace(
            self,
            x=_clip(min(xs), width),
            y=_clip(min(ys), height),
            x2=_clip(max(xs), width),
            y2=_clip(max(ys), height),
            turn=0.0,
        )

    def corners(self, height: int, width: int) -> list[Place]:
        """The four corners of a box that is still in percent, in pixels, clockwise."""
        angle = math.radians(self.turn)
        left, top = self.x / 100 * width, self.y / 100 * height
        wide = ((self.x2 or 0.0) - self.x) / 100 * width
        high = ((self.y2 or 0.0) - self.y) / 100 * height
        return [
            (
                left + a * math.cos(angle) - b * math.sin(angle),
                top + a * math.sin(angle) + b * math.cos(angle),
            )
            for a, b in ((0.0, 0.0), (wide, 0.0), (wide, high), (0.0, high))
        ]

    def to_json(self, *, carried: bool = False) -> dict[str, Any]:
        """The mark as an entry of ``Interaction.prompts``.

        Args:
            carried: whether it was accepted before this session.
        """
        entry = {key: value for key, value in asdict(self).items() if value not in (None, ())}
        del entry["turn"]
        if not self.group:
            del entry["group"]
        return entry | {"carried": True} if carried else entry

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Mark:
        """The mark in an entry of ``Interaction.prompts``."""
        names = ("id", "kind", "positive", "x", "y", "x2", "y2", "width", "text", "group")
        points = tuple((x, y) for x, y in entry.get("points", ()))
        return cls(**{name: entry[name] for name in names if name in entry}, points=points)


def prompt_of(marks: Iterable[Mark], mask: Any = None) -> Prompt:
    """The network's prompt for some marks.

    Args:
        marks: in pixels of the image.
        mask: the previous answer, float32 [h, w] in [0, 1]; None: there is none.
    """
    clicks, boxes, polygons, scribbles, words = [], [], [], [], []
    for mark in marks:
        match mark.kind:
            case "click":
                clicks.append(Click(mark.y, mark.x, mark.positive))
            case "box":
                boxes.append(Box(mark.y, mark.x, mark.y2 or 0.0, mark.x2 or 0.0))
            case "polygon":
                polygons.append(Polygon(_points(mark), mark.positive))
            case "scribble":
                scribbles.append(Scribble(_points(mark), mark.width, mark.positive))
            case "text":
                words.append(mark.text)
    return Prompt(
        clicks=tuple(clicks),
        boxes=tuple(boxes),
        polygons=tuple(polygons),
        scribbles=tuple(scribbles),
        mask=mask,
        text=words[-1] if words else None,
    )


def covers(mask: Mask, mark: Mark, height: int, width: int) -> bool:
    """Whether a mask covers a click, or the middle of a box or drawing. Words have no place, so no
    mask covers them.

    Args:
        mask: bool [h, w], at any resolution of the image.
        mark: in pixels of the image.
        height: rows of the image in pixels.
        width: columns of the image in pixels.
    """
    if mark.kind == "text":
        return False
    x = mark.x if mark.x2 is None else (mark.x + mark.x2) / 2
    y = mark.y if mark.y2 is None else (mark.y + mark.y2) / 2
    rows, columns = mask.shape
    row = min(int(y / height * rows), rows - 1)
    column = min(int(x / width * columns), columns - 1)
    return bool(np.asarray(mask)[row, column])


def _points(mark: Mark) -> tuple[Point, ...]:
    return tuple((y, x) for x, y in mark.points)


def _clip(pixels: float, size: int) -> float:
    return min(max(pixels, 0.0), float(size))
