"""Pure functions on masks: to and from PNG, and cleaning and smoothing one for display."""

from __future__ import annotations

import io
from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from model.errors import ImageError
from model.masks import Mask

MAX_PIXELS = 2**28  # of a PNG
SPECK_SHARE = 0.01  # of the mask's area; smaller islands and holes are taken for noise


def to_png(mask: Mask) -> bytes:
    """A 1-bit PNG of a mask, bool [H, W]."""
    return _save(Image.fromarray(np.ascontiguousarray(mask, dtype=np.bool_)))


def from_png(data: bytes) -> Mask:
    """The mask in a PNG, bool [H, W].

    Raises:
        ImageError: the bytes are not a PNG, or one with too many pixels.
    """
    return np.asarray(_open(data).convert("L")) > 127


def from_layer_png(data: bytes, most: int = MAX_PIXELS) -> Mask:
    """The mask in a PNG drawn as a layer, bool [H, W].

    If the PNG has transparent pixels, the mask is its opaque pixels, else its bright ones.

    Args:
        most: the most pixels that the PNG may have, because a small file may claim very many.

    Raises:
        ImageError: the bytes are not a PNG, or one with too many pixels.
    """
    image = _open(data, most)
    alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    return alpha > 127 if (alpha < 255).any() else np.asarray(image.convert("L")) > 127


def to_layer_png(mask: Mask) -> bytes:
    """A PNG of a mask, bool [H, W], drawn as a layer: white on the mask, transparent elsewhere."""
    image = Image.fromarray(np.ascontiguousarray(mask).view(np.uint8), mode="P")
    image.putpalette((0, 0, 0, 255, 255, 255))
    return _save(image, bits=1, transparency=0)


def probability_to_png(probability: NDArray[np.float32]) -> bytes:
    """A grey PNG of a probability map, float [H, W] in [0, 1], in steps of 1/255."""
    return _save(Image.fromarray(np.rint(np.clip(probability, 0, 1) * 255).astype(np.uint8)))


def probability_from_png(data: bytes) -> NDArray[np.float32]:
    """The probability map in a PNG, float32 [H, W] in [0, 1].

    Raises:
        ImageError: the bytes are not a PNG, or one with too many pixels.
    """
    return np.asarray(_open(data).convert("L"), dtype=np.float32) / np.float32(255)


def clean(mask: Mask, touched: Iterable[tuple[float, float]] = ()) -> Mask:
    """Drop specks and fill pinholes: islands and holes below 1 % of the mask's area.

    Args:
        mask: bool [H, W].
        touched: (row, column) in pixels of the clicks. What a person clicked on is never noise, so
            the island or hole under a click stays.

    Returns:
        A new mask, bool [H, W]; it is empty only if ``mask`` is.
    """
    area = int(np.count_nonzero(mask))
    if area == 0:
        return mask.copy()
    # Outside the mask there is nothing to clean. So only the part around the mask is examined,
    # which is fast for a small object in a large image.
    rows, columns = (_around(np.asarray(mask.any(axis))) for axis in (1, 0))
    near, smallest = mask[rows, columns], area * SPECK_SHARE
    keep = []
    for row, column in touched:
        y = min(max(int(row), 0), mask.shape[0] - 1) - rows.start
        x = min(max(int(column), 0), mask.shape[1] - 1) - columns.start
        if 0 <= y < near.shape[0] and 0 <= x < near.shape[1]:
            keep.append((y, x))
    if rows.start or columns.start:  # The background goes on there, so it is not a hole.
        keep.append((0, 0))
    if rows.stop < mask.shape[0] or columns.stop < mask.shape[1]:
        keep.append((near.shape[0] - 1, near.shape[1] - 1))
    filled = near | _small_parts(~near, smallest, keep)
    tidy = mask.copy()
    tidy[rows, columns] = filled & ~_small_parts(filled, smallest, keep)
    return tidy if tidy.any() else mask.copy()


def smooth(mask: Mask, radius: int) -> Mask:
    """Round off everything finer than about ``radius`` pixels.

    Args:
        mask: bool [H, W].
        radius: in pixels.

    Returns:
        A new mask, bool [H, W]; it is empty if the whole mask is that fine.
    """
    side = 2 * radius + 1
    grey = mask.astype(np.uint8) * 255
    return np.asarray(cv2.blur(grey, (side, side), borderType=cv2.BORDER_REPLICATE) > 127)


def _around(line: NDArray[np.bool_]) -> slice:
    """From one place before the first True of a line to one place after the last."""
    (where,) = np.nonzero(line)
    return slice(max(int(where[0]) - 1, 0), min(int(where[-1]) + 2, line.size))


def _small_parts(mask: Mask, smallest: float, keep: list[tuple[int, int]]) -> Mask:
    """The connected parts of a mask below an area in pixels, except parts with a kept point."""
    values = np.ascontiguousarray(mask).view(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(values, connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < smallest
    small[0] = False  # Part 0 is the outside of the mask.
    if not small.any():  # Most masks end here; looking up each pixel would take twice as long.
        return np.zeros_like(mask)
    for place in keep:
        small[labels[place]] = False
    return np.asarray(small[labels], dtype=np.bool_)


def _save(image: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1, **options)
    return buffer.getvalue()


def _open(data: bytes, most: int = MAX_PIXELS) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
        if image.width * image.height > most:
            raise ImageError("A mask has too many pixels; make it smaller.")
        image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"A mask is not a readable PNG ({error}); write it again.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("A mask has too many pixels; make it smaller.") from None
    return image
