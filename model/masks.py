"""What every part of maskloop means by a mask, and how alike two masks are."""

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
    """A mask, bool ``[H, W]``, at the resolution ``shape``: each pixel as the nearest one was."""
    if mask.shape == shape:
        return mask
    values = np.ascontiguousarray(mask).view(np.uint8)
    size = (shape[1], shape[0])
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_NEAREST), np.bool_)
