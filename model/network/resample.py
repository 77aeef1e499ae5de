"""Plain bilinear sampling of an image, for networks that were trained with it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def bilinear(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The result of ``F.interpolate(mode="bilinear", align_corners=False)`` for an 8-bit image.

    Only the pixels that are sampled become floats: of 50 megapixels, the others would take a
    gigabyte.

    Args:
        image: uint8 ``[H, W, C]``.
        size: (height, width) of the result.

    Returns:
        float32 ``[*size, C]`` in [0, 255].
    """
    (top, bottom, down), (left, right, across) = (
        _neighbours(cells, side) for cells, side in zip(size, image.shape, strict=False)
    )
    down, across = down[:, None, None], across[:, None]
    upper = image[np.ix_(top, left)] * (1 - across) + image[np.ix_(top, right)] * across
    lower = image[np.ix_(bottom, left)] * (1 - across) + image[np.ix_(bottom, right)] * across
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _neighbours(
    cells: int, side: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
    """For each of ``cells`` along an axis of ``side`` pixels: the pixels before and after its
    centre, and the share of the one after, each ``[cells]``."""
    centres = np.maximum((np.arange(cells) + 0.5) * side / cells - 0.5, 0)
    before = np.minimum(centres.astype(np.intp), side - 1)
    share = np.asarray(centres - before, np.float32)
    return before, np.minimum(before + 1, side - 1), share
