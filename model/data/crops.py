"""Training crops: an image and its instances, scaled, moved, mirrored and recoloured at random.

Every constant below that is a pair is the range of a uniform draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.data.datasets import IGNORE, MaskItem
from model.masks import Mask

MIN_AREA = 150  # pixels that an instance must have inside a crop to be a target
PAIR_SHARE = 0.1  # share of targets that are two instances at once
PAD = 128  # grey value of the pixels of a crop that lie outside the image

# How a crop is taken.
SCALE = (0.75, 1.8)  # the image's longest side, as a multiple of the crop's; its logarithm is drawn
ZOOM_SHARE = 0.3  # share of crops that zoom in on their object, as the second look does
ZOOMED_EXTENT = (0.25, 0.9)  # of a zoomed object, as a share of the crop's side
MAX_ZOOM = 4.0  # a zoomed crop is enlarged at most this much more than the others
STRETCH = (-0.15, 0.15)  # logarithm of the factor by which it is wider
TURN_SHARE = 0.3  # share of crops that are turned
TURN = (-15.0, 15.0)  # degrees
MIRROR_SHARE = 0.5  # share of crops that are mirrored
SHIFT = (-0.12, 0.12)  # along each axis, as a share of the crop's side

# How its colours change: the share of crops that each change is made to, and its ranges.
COLOUR_SHARE, GAIN, CAST, BRIGHTNESS = 0.7, (0.7, 1.3), (0.9, 1.1), (-25.0, 25.0)
GREY_SHARE = 0.07
BLUR_SHARE, BLUR = 0.15, (0.4, 1.5)  # standard deviation in pixels
JPEG_SHARE, JPEG_QUALITY = 0.15, (25, 85)


@dataclass(frozen=True, eq=False)
class Crop:
    """A square crop.

    Attributes:
        image: uint8 ``[L, L, 3]`` RGB.
        targets: bool ``[T, L, L]``, one mask for each target.
        known: bool ``[L, L]``, pixels that count.
        objects: bool ``[L, L]``, pixels of every labelled object.
    """

    image: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.bool_]
    known: Mask
    objects: Mask


def make_crop(item: MaskItem, size: int, n_targets: int, rng: np.random.Generator) -> Crop | None:
    """Draw one crop and its targets.

    Large instances are drawn more often (by the square root of their area), and one target in
    ten is two instances at once, as in SegNext's recipe.

    Args:
        item: an image with its mask.
        size: L, side of the crop in pixels.
        n_targets: T; instances repeat when the crop holds fewer.
        rng: the only source of chance.

    Returns:
        The crop; None when no instance in it is large enough.

    Raises:
        DatasetError: as ``MaskItem.load``.
    """
    image, indices = item.load()
    areas = np.bincount(indices.ravel(), minlength=256).astype(float)
    areas[[0, IGNORE]] = 0
    present = np.flatnonzero(areas)
    if not len(present):
        return None
    weights = np.sqrt(areas[present])
    focus = int(rng.choice(present, p=weights / weights.sum()))
    matrix = _transform(indices == focus, size, rng)
    warped = _warp(image, matrix, size)
    moved = cv2.warpAffine(indices, matrix, (size, size), flags=cv2.INTER_NEAREST, borderValue=(0,))
    inside = np.bincount(moved.ravel(), minlength=256).astype(float)
    inside[[0, IGNORE]] = 0
    candidates = np.flatnonzero(inside >= MIN_AREA)
    if not len(candidates):
        return None
    weights = np.sqrt(inside[candidates])
    weights /= weights.sum()
    targets = np.empty((n_targets, size, size), bool)
    order = rng.choice(candidates, n_targets, replace=n_targets > len(candidates), p=weights)
    for i, index in enumerate(order):
        targets[i] = moved == index
        if len(candidates) > 1 and rng.random() < PAIR_SHARE:
            targets[i] |= moved == rng.choice(candidates)
    known = moved != IGNORE
    return Crop(_recolour(warped, rng), targets, known, known & (moved > 0))


def _transform(focus: Mask, size: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random affine map from image pixels to crop pixels, float64 ``[2, 3]``, which keeps part of
    the object ``focus``, bool ``[H, W]``, in view."""
    height, width = focus.shape
    rows, cols = np.nonzero(focus)
    scale = size / max(height, width) * float(np.exp(rng.uniform(*np.log(SCALE))))
    if rng.random() < ZOOM_SHARE:
        extent = int(max(np.ptp(rows), np.ptp(cols))) + 1
        wanted = float(rng.uniform(*ZOOMED_EXTENT)) * size / extent
        scale = min(max(scale, wanted), MAX_ZOOM * scale)
    stretch = float(np.exp(rng.uniform(*STRETCH)))
    angle = np.deg2rad(rng.uniform(*TURN)) if rng.random() < TURN_SHARE else 0.0
    mirror = -1.0 if rng.random() < MIRROR_SHARE else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([mirror * stretch, 1 / stretch]) * scale
    # Aim at the middle of the image where it fits into the crop; the larger the image is, the
    # nearer to a point of the object.
    pick = int(rng.integers(len(rows)))
    fits = min(1.0, size / (scale * max(height, width)))
    centre = np.array([width / 2, height / 2]) * fits
    centre += np.array([cols[pick], rows[pick]]) * (1 - fits)
    spread = rng.uniform(*SHIFT, 2) * size
    offset = size / 2 + spread - linear @ centre
    matrix: npt.NDArray[np.float64] = np.concatenate([linear, offset[:, None]], 1)
    return matrix


def _warp(
    image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.uint8]:
    """The image, uint8 ``[H, W, 3]``, under an affine map ``[2, 3]``: uint8 ``[size, size, 3]``.

    Pixels are averaged where the image shrinks, as in the network's own input; ``warpAffine`` alone
    would pick single pixels.
    """
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 1:
        height, width = image.shape[:2]
        sides = max(round(width * scale), 1), max(round(height * scale), 1)
        image = np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_AREA), np.uint8)
        # Pixels of the image for each pixel of the smaller one, along x and y.
        step = np.array([width / sides[0], height / sides[1]])
        offset = matrix[:, 2] + matrix[:, :2] @ (step / 2 - 0.5)
        matrix = np.concatenate([matrix[:, :2] * step, offset[:, None]], 1)
    warped = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(PAD, PAD, PAD)
    )
    return np.asarray(warped, np.uint8)


def _recolour(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """An image, uint8 ``[L, L, 3]``, after random changes of brightness, contrast and colour, and
    sometimes in grey, blurred, or with JPEG blocks."""
    if rng.random() < COLOUR_SHARE:
        gain = rng.uniform(*GAIN) * rng.uniform(*CAST, 3)
        shift = rng.uniform(*BRIGHTNESS)
        table = np.clip(np.arange(256)[:, None] * gain + shift, 0, 255).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table[:, None, :]), np.uint8)
    if rng.random() < GREY_SHARE:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    if rng.random() < BLUR_SHARE:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(*BLUR)), np.uint8)
    if rng.random() < JPEG_SHARE:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*JPEG_QUALITY))]
        block = cv2.imencode(".jpg", image, quality)[1]
        image = np.asarray(cv2.imdecode(block, cv2.IMREAD_COLOR), np.uint8)
    return image
