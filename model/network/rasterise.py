"""Draws a prompt as the dense map the network reads (SegNext, arXiv 2404.00741).

Three channels at the network's input size: previous mask, positive, negative. Each kind has its own
rule. Where several marks touch one pixel of a channel, that pixel is still 1:

========  ==========  ====================================================================
kind      channel     drawn as
========  ==========  ====================================================================
click     pos or neg  a disk of ``radius`` map pixels
scribble  pos or neg  a stroke with round ends, as wide as a click or of its own width
box       positive    its filled rectangle, at least one pixel
polygon   pos or neg  its filled inside and its outline
mask      mask        its probabilities, resampled bilinearly
text      none        see ``model.network.text``
========  ==========  ====================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import PromptError
from model.network.prompts import Box, Click, Point, Polygon, Prompt, Scribble, check_prompt

Canvas = npt.NDArray[np.uint8]
Size = tuple[int, int]

# Coordinates beyond this many map pixels are moved to it. It is far outside any map, and OpenCV's
# integers can hold it.
FAR = 2**15
SUBPIXEL = 4  # bits after the binary point of a polygon's corners


def prompt_map(prompt: Prompt, image_size: Size, map_size: Size, radius: int) -> Tensor:
    """Rasterise a prompt for the network.

    Args:
        prompt: in image pixels.
        image_size: (height, width) of the original image.
        map_size: (height, width) of the network's input.
        radius: of a click's disk, in pixels of the map.

    Returns:
        float32 ``[3, map height, map width]`` in [0, 1]: previous mask, positive, negative.

    Raises:
        PromptError: see ``check_prompt``; or everything drawn lies outside the image.
    """
    check_prompt(prompt)
    channels = torch.zeros(3, *map_size)
    if prompt.mask is not None:
        mask = torch.from_numpy(np.ascontiguousarray(prompt.mask, np.float32))[None, None]
        channels[0] = F.interpolate(mask, map_size, mode="bilinear", align_corners=False)[0, 0]
    if not prompt.has_marks:
        return channels
    for channel, sign in ((1, True), (2, False)):
        canvas = np.zeros(map_size, np.uint8)
        draw_clicks(canvas, [c for c in prompt.clicks if c.positive is sign], image_size, radius)
        strokes = [s for s in prompt.scribbles if s.positive is sign]
        draw_scribbles(canvas, strokes, image_size, radius)
        fill_polygons(canvas, [p for p in prompt.polygons if p.positive is sign], image_size)
        fill_boxes(canvas, prompt.boxes if sign else (), image_size)
        channels[channel] = torch.from_numpy(canvas)
    if not channels[1:].any():
        raise PromptError("The prompt lies outside the image; put it on the object.")
    return channels


def draw_clicks(canvas: Canvas, clicks: Iterable[Click], image_size: Size, radius: int) -> None:
    """Draw clicks as disks: pixels whose squared distance from a click is at most ``radius ** 2``.

    Args:
        canvas: uint8 ``[map height, map width]``; set to 1 in place. Of a click outside the map,
            the part of its disk that lies inside is drawn.
        clicks: in image pixels; whether they are positive makes no difference here.
        image_size: (height, width) of the image.
        radius: in pixels of the map.
    """
    height, width = canvas.shape
    offsets = np.arange(-radius, radius + 1)
    disk = (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)
    for click in clicks:
        row, col = _pixel((click.row, click.col), canvas.shape, image_size)
        top, left = max(row - radius, 0), max(col - radius, 0)
        bottom, right = min(row + radius + 1, height), min(col + radius + 1, width)
        if top >= bottom or left >= right:
            continue
        part = disk[
            top - row + radius : bottom - row + radius, left - col + radius : right - col + radius
        ]
        canvas[top:bottom, left:right] |= part


def draw_scribbles(
    canvas: Canvas, scribbles: Iterable[Scribble], image_size: Size, radius: int
) -> None:
    """Draw strokes with round ends; arguments as in ``draw_clicks``.

    A stroke is as wide as a click's disk, or has its own width, scaled by the geometric mean of
    both axes' scales and at least one pixel.
    """
    height, width = canvas.shape
    scale = math.sqrt(height / image_size[0] * width / image_size[1])
    for scribble in scribbles:
        stroke = 2 * radius + 1
        if scribble.width is not None:
            stroke = round(min(max(scribble.width * scale, 1.0), float(height + width)))
        points = [_pixel(point, canvas.shape, image_size)[::-1] for point in scribble.points]
        line = np.array(points * 2 if len(points) == 1 else points, np.int32)[:, None]
        # OpenCV draws a line of an even thickness t as t + 1 pixels wide, its ends as disks.
        thickness = max(stroke // 2 * 2, 1)
        cv2.polylines(canvas, [line], isClosed=False, color=1, thickness=thickness)


def fill_polygons(canvas: Canvas, polygons: Iterable[Polygon], image_size: Size) -> None:
    """Fill polygons, including their outlines; arguments as in ``draw_clicks``. A polygon without
    an area is drawn as the line or the point that it is."""
    height, width = canvas.shape
    scale = np.array([width / image_size[1], height / image_size[0]])
    # A point at x in the image lies at x * scale in the map, counted from the first pixel's edge;
    # OpenCV counts from its centre.
    for polygon in polygons:
        corners = np.array(polygon.points, np.float64)[:, ::-1]
        corners = np.clip(corners, -FAR / scale, FAR / scale) * scale - 0.5
        fixed = np.round(corners * 2**SUBPIXEL).astype(np.int32)
        cv2.fillPoly(canvas, [fixed[:, None]], color=1, shift=SUBPIXEL)


def fill_boxes(canvas: Canvas, boxes: Iterable[Box], image_size: Size) -> None:
    """Fill boxes, each with at least one pixel where it touches the image; arguments as in
    ``draw_clicks``."""
    height, width = canvas.shape
    for box in boxes:
        rows = sorted((box.top * height / image_size[0], box.bottom * height / image_size[0]))
        cols = sorted((box.left * width / image_size[1], box.right * width / image_size[1]))
        if rows[1] < 0 or cols[1] < 0 or rows[0] > height or cols[0] > width:
            continue
        top = math.floor(np.clip(rows[0], 0, height - 1))
        left = math.floor(np.clip(cols[0], 0, width - 1))
        bottom = math.ceil(np.clip(rows[1], top + 1, height))
        right = math.ceil(np.clip(cols[1], left + 1, width))
        canvas[top:bottom, left:right] = 1


def _pixel(point: Point, map_size: Sequence[int], image_size: Size) -> tuple[int, int]:
    """The pixel of the map, (row, col), for a point of the image."""
    row, col = map(_scaled, point, map_size, image_size)
    return row, col


def _scaled(at: float, map_side: int, image_side: int) -> int:
    # The reference network's own rule, kept exactly so that masks agree: scale each axis, add half
    # a pixel, truncate. It does so in float32, which rounds differently where a click lies on the
    # boundary of two pixels.
    scale = map_side / image_side
    if abs(at * scale) > FAR:
        return FAR if at > 0 else -FAR
    return int(np.float32(at) * np.float32(scale) + np.float32(0.5))
