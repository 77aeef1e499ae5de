"""The type of a mask, how alike two masks are, and masks at another resolution."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]  # [H, W]; True where the object is


def iou(first: Mask, second: Mask) -> float:
    """Intersection over union of two masks, bool ``[H, W]`` each; 1 when both are empty.

    >>> iou(np.array([[True, True]]), np.array([[True, False]]))
    0.5
    """
    union = np.count_nonzero(first | second)
    return 1.0 if union == 0 else float(np.count_nonzero(first & second) / union)


def resized(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask, bool ``[H, W]``, at the resolution ``shape``, by its nearest pixels."""
    if mask.shape == shape:
        return mask
    values = np.ascontiguousarray(mask).view(np.uint8)
    size = (shape[1], shape[0])
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST), np.bool_)


def resized_by_area(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask, bool ``[H, W]``, at the resolution ``shape``: where it shrinks, a pixel belongs to it
    when at least half of the area that the pixel covers did."""
    shares = cv2.resize(
        np.ascontiguousarray(mask).view(np.uint8) * np.uint8(255),
        (shape[1], shape[0]),
        interpolation=cv2.INTER_AREA,
    )
    return np.asarray(shares > 127)
