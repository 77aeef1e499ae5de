"""Training crops: an image and its instances, scaled, moved, mirrored and recoloured at random."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from model.data.datasets import IGNORE, MaskItem

MIN_AREA = 150  # pixels of an instance inside a crop below which it is no target
PAD = 128
# Share of crops that zoom in on their object, as the second look does on small ones.
ZOOM_SHARE = 0.3
MAX_ZOOM = 4.0


@dataclass(frozen=True, eq=False)
class Crop:
    """A square crop: ``image`` uint8 ``[L, L, 3]`` RGB, ``targets`` bool ``[T, L, L]``,
    ``known`` bool ``[L, L]``, ``objects`` bool ``[L, L]``: the pixels of every labelled object."""

    image: npt.NDArray[np.uint8]
    targets: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    objects: npt.NDArray[np.bool_]


def make_crop(item: MaskItem, size: int, n_targets: int, rng: np.random.Generator) -> Crop | None:
    """Draw one crop and its targets; None when no instance of the image can be one.

    Large instances are drawn more often (by the square root of their area), and one target in
    ten is two instances at once, as in SegNext's recipe.

    Args:
        item: an image with its mask.
        size: L, side of the crop in pixels.
        n_targets: T; instances repeat when the crop holds fewer.
        rng: the only source of chance.
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
        if len(candidates) > 1 and rng.random() < 0.1:
            targets[i] |= moved == rng.choice(candidates)
    known = moved != IGNORE
    return Crop(_recolour(warped, rng), targets, known, known & (moved > 0))


def _transform(
    focus: npt.NDArray[np.bool_], size: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """A 2x3 affine map of image pixels to crop pixels that keeps part of ``focus`` in view."""
    height, width = focus.shape
    rows, cols = np.nonzero(focus)
    scale = size / max(height, width) * float(np.exp(rng.uniform(np.log(0.75), np.log(1.8))))
    if rng.random() < ZOOM_SHARE:
        extent = int(max(np.ptp(rows), np.ptp(cols))) + 1
        wanted = float(rng.uniform(0.25, 0.9)) * size / extent
        scale = min(max(scale, wanted), MAX_ZOOM * scale)
    stretch = float(np.exp(rng.uniform(-0.15, 0.15)))
    angle = np.deg2rad(rng.uniform(-15, 15)) if rng.random() < 0.3 else 0.0
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([mirror * stretch, 1 / stretch]) * scale
    # Aim at the middle of the image where it fits, and towards a point of the object where it
    # does not.
    pick = int(rng.integers(len(rows)))
    fits = min(1.0, size / (scale * max(height, width)))
    centre = np.array([width / 2, height / 2]) * fits
    centre += np.array([cols[pick], rows[pick]]) * (1 - fits)
    spread = rng.uniform(-0.12, 0.12, 2) * size
    offset = size / 2 + spread - linear @ centre
    matrix: npt.NDArray[np.float64] = np.concatenate([linear, offset[:, None]], 1)
    return matrix


def _warp(
    image: npt.NDArray[np.uint8], matrix: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.uint8]:
    """The image under an affine map, averaged where it shrinks, as the network's own input is:
    ``warpAffine`` alone would pick single pixels."""
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 1:
        height, width = image.shape[:2]
        sides = max(round(width * scale), 1), max(round(height * scale), 1)
        image = np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_AREA), np.uint8)
        step = np.array([width / sides[0], height / sides[1]])  # pixels of the image in one here
        offset = matrix[:, 2] + matrix[:, :2] @ (step / 2 - 0.5)
        matrix = np.concatenate([matrix[:, :2] * step, offset[:, None]], 1)
    warped = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(PAD, PAD, PAD)
    )
    return np.asarray(warped, np.uint8)


def _recolour(image: npt.NDArray[np.uint8], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Brightness, contrast, colour cast, grey, blur and JPEG blocks, each now and then."""
    if rng.random() < 0.7:
        gain = rng.uniform(0.7, 1.3) * rng.uniform(0.9, 1.1, 3)
        shift = rng.uniform(-25, 25)
        table = np.clip(np.arange(256)[:, None] * gain + shift, 0, 255).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table[:, None, :]), np.uint8)
    if rng.random() < 0.07:
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        image = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
    if rng.random() < 0.15:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.5)), np.uint8)
    if rng.random() < 0.15:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))]
        block = cv2.imencode(".jpg", image, quality)[1]
        image = np.asarray(cv2.imdecode(block, cv2.IMREAD_COLOR), np.uint8)
    return image
