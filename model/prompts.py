"""What an annotator tells the network about one object, and the dense map made of it.

The map follows SegNext (arXiv 2404.00741): three channels at the network's input size, previous
mask, positive, negative. Clicks are binary disks; boxes are filled regions in the positive channel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import PromptError

MAX_PROMPTS = 10_000


@dataclass(frozen=True)
class Click:
    """A point on the object (positive) or off it, in pixels of the original upright image."""

    row: float
    col: float
    positive: bool = True


@dataclass(frozen=True)
class Box:
    """A box around the object, in pixels of the original upright image; edges in any order."""

    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True, eq=False)
class Prompt:
    """Everything said about one object.

    Attributes:
        clicks: clicks, oldest first.
        boxes: boxes; all mean the same object.
        mask: float32 ``[h, w]`` probabilities in [0, 1] over the whole image at any resolution:
            what the network answered before. ``None`` when there was no answer yet.
    """

    clicks: tuple[Click, ...] = ()
    boxes: tuple[Box, ...] = ()
    mask: npt.NDArray[np.float32] | None = None


def check_prompt(prompt: Prompt) -> None:
    """Refuse a prompt that cannot mean anything.

    Raises:
        PromptError: nothing in it, more than ``MAX_PROMPTS`` items, a coordinate that is not
            finite, or a mask that is not a non-empty 2-D array of finite numbers.
    """
    n = len(prompt.clicks) + len(prompt.boxes)
    if n == 0 and prompt.mask is None:
        raise PromptError("The prompt is empty; give a click, a box or a mask.")
    if n > MAX_PROMPTS:
        raise PromptError(f"The prompt has {n} items; give at most {MAX_PROMPTS}.")
    numbers = [value for click in prompt.clicks for value in (click.row, click.col)]
    numbers += [
        value for box in prompt.boxes for value in (box.top, box.left, box.bottom, box.right)
    ]
    if not all(math.isfinite(number) for number in numbers):
        raise PromptError("A prompt's coordinate is not a finite number; give pixels of the image.")
    mask = prompt.mask
    if mask is not None and (mask.ndim != 2 or mask.size == 0 or not np.isfinite(mask).all()):
        raise PromptError("A mask prompt must be a non-empty 2-D array of finite probabilities.")


def disk_map(
    clicks: tuple[Click, ...],
    image_size: tuple[int, int],
    map_size: tuple[int, int],
    radius: int,
) -> npt.NDArray[np.float32]:
    """Draw clicks as disks: pixels whose squared distance from a click is at most ``radius ** 2``.

    Args:
        clicks: clicks in image pixels; their sign is not looked at.
        image_size: (height, width) of the image.
        map_size: (height, width) of the map.
        radius: in pixels of the map.

    Returns:
        float32 ``[map height, map width]`` of 0 and 1. A click outside the map draws the part of
        its disk inside.
    """
    height, width = map_size
    canvas = np.zeros((height, width), np.float32)
    offsets = np.arange(-radius, radius + 1)
    disk = offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2
    for click in clicks:
        # Per-axis scaling, half a pixel, truncation: the reference's rule, kept to the letter
        # for parity.
        row = int(click.row * height / image_size[0] + 0.5)
        col = int(click.col * width / image_size[1] + 0.5)
        top, left = max(row - radius, 0), max(col - radius, 0)
        bottom, right = min(row + radius + 1, height), min(col + radius + 1, width)
        if top >= bottom or left >= right:
            continue
        part = disk[
            top - row + radius : bottom - row + radius, left - col + radius : right - col + radius
        ]
        np.maximum(canvas[top:bottom, left:right], part, out=canvas[top:bottom, left:right])
    return canvas


def fill_boxes(
    canvas: npt.NDArray[np.float32], boxes: tuple[Box, ...], image_size: tuple[int, int]
) -> None:
    """Set every pixel of ``canvas`` (float32 ``[h, w]``) inside a box to 1; at least one pixel
    each."""
    height, width = canvas.shape
    for box in boxes:
        rows = sorted((box.top * height / image_size[0], box.bottom * height / image_size[0]))
        cols = sorted((box.left * width / image_size[1], box.right * width / image_size[1]))
        top = int(np.clip(math.floor(rows[0]), 0, height - 1))
        left = int(np.clip(math.floor(cols[0]), 0, width - 1))
        bottom = int(np.clip(math.ceil(rows[1]), top + 1, height))
        right = int(np.clip(math.ceil(cols[1]), left + 1, width))
        canvas[top:bottom, left:right] = 1


def prompt_map(
    prompt: Prompt, image_size: tuple[int, int], map_size: tuple[int, int], radius: int
) -> Tensor:
    """Rasterise a prompt for the network.

    Args:
        prompt: in image pixels.
        image_size: (height, width) of the original image.
        map_size: (height, width) of the network's input.
        radius: of a click's disk, in pixels of the map.

    Returns:
        float32 ``[3, map height, map width]`` in [0, 1]: previous mask, positive, negative.

    Raises:
        PromptError: see ``check_prompt``.
    """
    check_prompt(prompt)
    channels = torch.zeros(3, *map_size)
    if prompt.mask is not None:
        mask = torch.from_numpy(np.ascontiguousarray(prompt.mask, np.float32))[None, None]
        channels[0] = F.interpolate(mask, map_size, mode="bilinear", align_corners=False)[0, 0]
    positive = disk_map(
        tuple(click for click in prompt.clicks if click.positive), image_size, map_size, radius
    )
    fill_boxes(positive, prompt.boxes, image_size)
    negative = disk_map(
        tuple(click for click in prompt.clicks if not click.positive), image_size, map_size, radius
    )
    channels[1] = torch.from_numpy(positive)
    channels[2] = torch.from_numpy(negative)
    return channels
