"""Simulated annotators: what they draw first for an object, and where they click next.

All coordinates are pixels of the arrays that are given. The evaluation's functions are
deterministic; those of the training take a generator.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from model.masks import Mask
from model.network.prompts import Box, Click, Point, Polygon, Prompt, Scribble

START_KINDS = ("click", "box", "polygon", "scribble", "mask")
OUTLINE_TOLERANCE = 0.02  # share of an outline's length; gives most objects about a dozen corners
NOTABLE = 0.2  # parts whose outline is shorter than this share of the longest are left out
STROKE_POINTS = 7
STROKE_REACH = 0.8  # share of the object that a stroke passes along its long axis
MASK_MARGIN = 20  # a mask prompt is too large by the object's side divided by this

# How imperfect a training's prompts are. "side" is the square root of the object's area; every pair
# is the range of a uniform draw.
BOX_JITTER = 0.1  # by which each edge of a box is off at most, as a share of the box's side
OUTLINE_SLIP = (0.0, 0.03)  # standard deviation of a corner's error, as a share of the side
OUTLINE_TOLERANCES = (0.004, 0.035)  # from a careful outline to a careless one
SLANTED_SHARE, SLIGHT_TURN = 0.3, (-0.4, 0.4)  # other strokes turn little from the axis (radians)
STROKE_LENGTHS, STROKE_REACHES = (2, 9), (0.2, 0.9)  # points (below 9), and the share passed
BROAD_SHARE = 0.3  # share of strokes with a broad brush
BROAD_WIDTH = (0.2, 0.8)  # of a broad brush, as a share of the object's greatest width
ROUGH_GROWTH = (0.0, 0.1)  # by which a bad mask is grown or shrunk, as a share of the side
ROUGH_SHIFT = (-0.15, 0.15)  # by which a bad mask is moved along each axis, likewise
SOFT_SHARE = 0.5  # share of bad masks that are blurred
# First negative clicks: half are on another object if there is one, most others near the edge.
ON_OTHER_SHARE, NEAR_EDGE_SHARE = 0.5, 0.9  # the second one includes the first
EDGE_GAP = 2  # pixels that a negative click keeps from the object
EDGE_BAND = 0.15  # how far from the object "near the edge" ends, as a share of the side


def depth(region: Mask) -> npt.NDArray[np.float32]:
    """The Euclidean distance of each pixel of ``region``, bool ``[H, W]``, to the nearest pixel
    outside it, in pixels: float32 ``[H, W]``, 0 outside the region. Beyond the image is outside."""
    padded = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance[1:-1, 1:-1], np.float32)


def next_click(
    target: Mask, predicted: Mask, used: Mask, known: Mask | None = None
) -> Click | None:
    """The click of the field's evaluation: the deepest pixel of the larger of two error regions.

    The regions, missed and extra pixels, are compared by their greatest depth, as in the evaluation
    of SegNext and of RITM.

    Args:
        target, predicted: bool ``[H, W]``.
        used: bool ``[H, W]``, pixels clicked before; none is clicked twice. Changed in place.
        known: bool ``[H, W]``, pixels that count; None: all.

    Returns:
        The click, or None when there is no error left to click on.
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
    """The next click in training: a random pixel in the inner half of the larger error region.

    The inner half is where the depth is above half of its maximum.

    Args:
        target, predicted: bool ``[H, W]``.
        rng: the only source of chance.

    Returns:
        The click, or None when nothing is wrong.
    """
    missed, extra = target & ~predicted, predicted & ~target
    missed_depth, extra_depth = depth(missed), depth(extra)
    positive = bool(missed_depth.max() > extra_depth.max())
    chosen = missed_depth if positive else extra_depth
    if chosen.max() <= 0:
        return None
    candidates = np.flatnonzero(chosen > chosen.max() / 2)
    row, col = np.unravel_index(int(rng.choice(candidates)), chosen.shape)
    return Click(float(row), float(col), positive)


def box_around(target: Mask) -> Box:
    """The tight box around a non-empty ``target``, bool ``[H, W]``."""
    rows, cols = np.flatnonzero(target.any(1)), np.flatnonzero(target.any(0))
    return Box(float(rows[0]), float(cols[0]), float(rows[-1] + 1), float(cols[-1] + 1))


def outline(target: Mask, tolerance: float = OUTLINE_TOLERANCE) -> tuple[Polygon, ...]:
    """A coarse outline of each notable part of an object; holes are left out.

    Args:
        target: bool ``[H, W]``, not empty.
        tolerance: how far the outline may be off, as a share of its length (Douglas-Peucker).
    """
    contours, _ = cv2.findContours(
        target.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    largest = max(len(contour) for contour in contours)
    polygons = []
    for contour in contours:
        if len(contour) < NOTABLE * largest:
            continue
        kept = cv2.approxPolyDP(contour, tolerance * cv2.arcLength(contour, True), True)[:, 0]
        # Contours run through the centres of pixels.
        polygons.append(Polygon(tuple((float(y) + 0.5, float(x) + 0.5) for x, y in kept)))
    return tuple(polygons)


def strokes(
    target: Mask, n_points: int = STROKE_POINTS, reach: float = STROKE_REACH, turn: float = 0.0
) -> tuple[Scribble, ...]:
    """A scribble along the middle of an object.

    The object is cut across its long axis into slices. The stroke goes from the deepest pixel of
    one slice to that of the next, and is interrupted where that would leave the object.

    Args:
        target: bool ``[H, W]``, not empty.
        n_points: number of slices.
        reach: share of the object's pixels, along the axis, that the stroke passes.
        turn: radians by which the axis is turned away from the long one.
    """
    inner = depth(target)
    points = np.argwhere(target).astype(np.float64)
    centred = points - points.mean(0)
    axis = np.linalg.svd(centred.T @ centred)[0][:, 0]
    cos, sin = np.cos(turn), np.sin(turn)
    along = centred @ (np.array([[cos, -sin], [sin, cos]]) @ axis)
    edges = np.quantile(along, np.linspace(0.5 - reach / 2, 0.5 + reach / 2, n_points + 1))
    depths = inner[target]
    path: list[Point] = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        here = np.flatnonzero((along >= low) & (along <= high))
        if len(here):
            row, col = points[here[depths[here].argmax()]]
            path.append((float(row), float(col)))
    if not path:  # the object has so few pixels that all slices are empty
        path = [(float(row), float(col)) for row, col in points[[depths.argmax()]]]
    lines: list[list[Point]] = [path[:1]]
    for before, after in zip(path[:-1], path[1:], strict=True):
        length = int(np.abs(np.subtract(after, before)).max())
        steps = np.linspace(before, after, length + 1).round().astype(int)
        if target[steps[:, 0], steps[:, 1]].all():
            lines[-1].append(after)
        else:
            lines.append([after])
    return tuple(Scribble(tuple(line)) for line in lines)


def start_prompt(kind: str, target: Mask) -> Prompt:
    """The first prompt of the evaluation's annotator.

    Args:
        kind: of ``START_KINDS``: a click on the deepest pixel; the tight box; ``outline``;
            ``strokes``; or a mask that is too large on every side, by a twentieth of the object's
            side.
        target: the object, bool ``[H, W]``, not empty.
    """
    if kind == "box":
        return Prompt(boxes=(box_around(target),))
    if kind == "polygon":
        return Prompt(polygons=outline(target))
    if kind == "scribble":
        return Prompt(scribbles=strokes(target))
    if kind == "mask":
        margin = max(round(np.sqrt(np.count_nonzero(target)) / MASK_MARGIN), 1)
        grown = cv2.dilate(target.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=margin)
        return Prompt(mask=np.asarray(grown, np.float32))
    row, col = np.unravel_index(int(depth(target).argmax()), target.shape)
    return Prompt((Click(float(row), float(col)),))


def training_box(target: Mask, rng: np.random.Generator, jitter: float = BOX_JITTER) -> Box:
    """``box_around`` a ``target``, bool ``[H, W]``, with each edge moved by up to ``jitter``, as a
    share of the box's side."""
    box = box_around(target)
    height, width = box.bottom - box.top, box.right - box.left
    shift = rng.uniform(-jitter, jitter, 4) * (height, width, height, width)
    return Box(box.top + shift[0], box.left + shift[1], box.bottom + shift[2], box.right + shift[3])


def training_outline(target: Mask, rng: np.random.Generator) -> tuple[Polygon, ...]:
    """``outline`` of a ``target``, bool ``[H, W]``, drawn anywhere from carefully to carelessly."""
    slip = rng.uniform(*OUTLINE_SLIP) * np.sqrt(np.count_nonzero(target))
    polygons = outline(target, rng.uniform(*OUTLINE_TOLERANCES))
    return tuple(
        Polygon(tuple((r + rng.normal(0, slip), c + rng.normal(0, slip)) for r, c in p.points))
        for p in polygons
    )


def training_strokes(target: Mask, rng: np.random.Generator) -> tuple[Scribble, ...]:
    """``strokes`` on a ``target``, bool ``[H, W]``: longer or shorter, straight or slanted,
    sometimes with a broad brush."""
    slanted = rng.random() < SLANTED_SHARE
    turn = rng.uniform(-np.pi, np.pi) if slanted else rng.uniform(*SLIGHT_TURN)
    n_points = int(rng.integers(*STROKE_LENGTHS))
    lines = strokes(target, n_points, rng.uniform(*STROKE_REACHES), turn)
    if rng.random() < 1 - BROAD_SHARE:
        return lines
    width = max(rng.uniform(*BROAD_WIDTH) * 2 * float(depth(target).max()), 1.0)
    return tuple(Scribble(line.points, width) for line in lines)


def rough_mask(target: Mask, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A bad mask of a non-empty ``target``, bool ``[H, W]``, as another tool might give it: grown,
    shrunk, moved or cut, and sometimes blurred. float32 ``[H, W]`` in [0, 1]."""
    side = float(np.sqrt(np.count_nonzero(target)))
    mask = target.astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    times = max(int(rng.uniform(*ROUGH_GROWTH) * side), 1)
    how = int(rng.integers(4))
    if how == 0:
        mask = np.asarray(cv2.dilate(mask, kernel, iterations=times), np.uint8)
    elif how == 1:
        mask = np.asarray(cv2.erode(mask, kernel, iterations=times), np.uint8)
    elif how == 2:
        shift = np.concatenate([np.eye(2), rng.uniform(*ROUGH_SHIFT, (2, 1)) * side], axis=1)
        mask = np.asarray(cv2.warpAffine(mask, shift, mask.shape[::-1]), np.uint8)
    else:
        rows, cols = np.nonzero(target)
        cut = int(rng.choice(rows)), int(rng.choice(cols))
        mask[cut[0] :, cut[1] :] = 0
    soft = (mask if mask.any() else target).astype(np.float32)
    if rng.random() < SOFT_SHARE:
        blur = rng.uniform(0.3, max(min(side / 8, 4.0), 0.4))
        soft = np.minimum(cv2.GaussianBlur(soft, (0, 0), blur), 1).astype(np.float32)
    return soft


def training_negative(target: Mask, others: Mask, rng: np.random.Generator) -> Click | None:
    """A negative click before the first answer: on another object, near the edge, or anywhere off
    the object, by the shares of SegNext's recipe.

    Args:
        target: the object, bool ``[H, W]``.
        others: bool ``[H, W]``, pixels of other objects.
        rng: the only source of chance.

    Returns:
        The click; None when there is no pixel to click on.
    """
    off = ~target
    draw = rng.random()
    if draw < ON_OTHER_SHARE and others.any():
        off = others & off
    elif draw < NEAR_EDGE_SHARE:
        band = max(round(EDGE_BAND * float(np.sqrt(np.count_nonzero(target)))), EDGE_GAP)
        kernel = np.ones((3, 3), np.uint8)
        wide = cv2.dilate(target.astype(np.uint8), kernel, iterations=band)
        near = cv2.dilate(target.astype(np.uint8), kernel, iterations=EDGE_GAP)
        off = np.asarray((wide > 0) & (near == 0))
    places = np.flatnonzero(off)
    if not len(places):
        return None
    row, col = np.unravel_index(int(rng.choice(places)), off.shape)
    return Click(float(row), float(col), positive=False)
