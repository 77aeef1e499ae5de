"""Converts Label Studio's region JSON to masks and back."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.errors import ImageError
from model.masks import Mask, resized
from pipeline.errors import RleError
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.template import OUTPUT_TAGS, Output
from pipeline.labelstudio.types import RegionJson
from pipeline.masks import rle as codec
from pipeline.masks.coded import CodedMask
from pipeline.masks.ops import from_layer_png, to_layer_png
from pipeline.masks.outlines import outline, parted

SUBPIXEL_BITS = 4  # cv2 takes corners as fixed-point numbers
CURVE_STEPS = 16  # straight pieces a Bezier edge is drawn with
TOLERANCE_OF_OBJECT = 0.01  # of the side of a square with the mask's area
LEAST_TOLERANCE = 0.5  # pixels; with less, each step of a sloping edge would be a corner
OUTSIDE = (-100, 200)  # percent; corners farther outside the image are moved to these
LEAST_BITMASK = 2**20  # pixels that any bitmask may have, however small its image
BITMASK_FACTOR = 4  # A bitmask may have this many times the pixels of its image.
PNG_URL = "data:image/png;base64"
ROUNDING = 1e-3  # largest difference between equal numbers after a page has rounded them
_DRAWN = ("rle", "points", "vertices", "imageDataURL")


def mask_of(region: Mapping[str, Any]) -> Mask | None:
    """The mask that a region draws: bool [original_height, original_width].

    None for a region that is not a mask: prompts (keypoints, rectangles, text), choices, a brush
    stroke that Label Studio has not turned into pixels yet, an outline with fewer than three
    corners.

    Args:
        region: one entry of an annotation's, draft's or prediction's ``result``.

    Raises:
        RleError: the region is a mask, but its size, its RLE or its corners are damaged.
        ImageError: its bitmask is not a PNG.
    """
    value = region.get("value")
    kind = str(region.get("type", "")).removesuffix("labels")
    if not isinstance(value, Mapping) or kind not in _READERS:
        return None
    return _READERS[kind](value, *_size(region))


def label_of(region: Mapping[str, Any]) -> str | None:
    """The first label of a region; None if it has none."""
    value = region.get("value")
    if not isinstance(value, Mapping):
        return None
    for key in (str(region.get("type", "")), "labels"):
        names = value.get(key)
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
    return None


def brush_region(
    *,
    region_id: str,
    mask: CodedMask,
    label: str,
    from_name: str,
    to_name: str,
    score: float | None = None,
    rotation: int = 0,
) -> RegionJson:
    """The brush region that Label Studio shows for a mask; arguments as for ``output_region``."""
    region: RegionJson = {
        "id": region_id,
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": mask.width,
        "original_height": mask.height,
        "image_rotation": rotation,
        "value": {"format": "rle", "rle": list(mask.rle), "brushlabels": [label]},
    }
    if score is not None:
        region["score"] = round(float(score), 4)
    return region


def output_region(
    *,
    region_id: str,
    mask: CodedMask,
    label: str,
    config: LabelConfig,
    score: float | None = None,
    rotation: int = 0,
    tolerance: float = 0.0,
) -> RegionJson:
    """The region that Label Studio shows for a mask, of the kind that the config asks for.

    Args:
        region_id: stable id; Label Studio replaces a region of the same id in place.
        mask: of the upright image, not empty.
        label: one of ``config.labels``.
        config: gives the tag and the kind of region.
        score: the model's confidence in [0, 1].
        rotation: degrees the annotator has turned the image by; coordinates do not change with it.
        tolerance: how far an outline may be off the mask's edge, as a share of the image's longer
            side. For small objects the limit is a hundredth of their own side, but it is never less
            than half a pixel.

    Raises:
        RleError: the mask was made from a damaged RLE, and its pixels are needed.
    """
    region = brush_region(
        region_id=region_id,
        mask=mask,
        label=label,
        from_name=config.output_tag,
        to_name=config.image_tag,
        score=score,
        rotation=rotation,
    )
    if config.output != "brush":
        kind = OUTPUT_TAGS[config.output].lower()
        value = _value(config.output, mask.mask, tolerance)
        region |= {"type": kind, "value": {**value, kind: [label]}}
    return region


def _alike(first: Any, second: Any) -> bool:
    """Whether two values of JSON are equal, except for the rounding of numbers."""
    if isinstance(first, float) and isinstance(second, int | float):
        return math.isclose(first, second, abs_tol=ROUNDING)
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return first == second or all(map(_alike, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return all(_alike(first.get(key), second[key]) for key in ("x", "y") if key in second)
    return bool(first == second)


def same_drawing(region: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two regions draw the same: every point, or every byte of pixels, is equal."""
    first, second = region.get("value"), other.get("value")
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return False
    if (first.get("touches") or []) != (second.get("touches") or []):  # Strokes were added.
        return False
    drawn = [key for key in _DRAWN if key in second]
    return bool(drawn) and all(_alike(first.get(key), second[key]) for key in drawn)


def _value(output: Output, mask: Mask, tolerance: float) -> dict[str, Any]:
    if output == "bitmask":
        data = base64.b64encode(to_layer_png(mask)).decode()
        return {"imageDataURL": f"{PNG_URL},{data}"}
    corners = _corners(mask, tolerance)
    if output == "polygon":
        return {"points": corners, "closed": True}
    names = [f"v{k}" for k in range(len(corners))]
    vertices = [
        {"id": name, "x": x, "y": y, "prevPointId": before, "isBezier": False}
        for name, before, (x, y) in zip(names, [None, *names][: len(names)], corners, strict=True)
    ]
    return {"vertices": vertices, "closed": True}


def _corners(mask: Mask, tolerance: float) -> list[list[float]]:
    """The corners of a mask's outline, percent of the image."""
    height, width = mask.shape
    own = TOLERANCE_OF_OBJECT * math.sqrt(np.count_nonzero(mask))
    pixels = max(min(tolerance * max(height, width), own), LEAST_TOLERANCE)
    percent = outline(mask, pixels) * (100 / width, 100 / height)
    return [[round(x, 4), round(y, 4)] for x, y in percent.tolist()]


def _size(region: Mapping[str, Any]) -> tuple[int, int]:
    height, width = region.get("original_height"), region.get("original_width")
    if (
        not isinstance(height, int)
        or not isinstance(width, int)
        or isinstance(height, bool)
        or isinstance(width, bool)
        or height < 1
        or width < 1
        or height * width > codec.MAX_PIXELS
    ):
        raise RleError(
            f"A region says its image is {width} x {height} pixels; check original_width and "
            "original_height."
        )
    return height, width


def _brush(value: Mapping[str, Any], height: int, width: int) -> Mask | None:
    if "rle" not in value:  # The pixels of a stroke in a draft come when it is saved.
        return None
    return codec.decode(value["rle"], height, width)


def _polygon(value: Mapping[str, Any], height: int, width: int) -> Mask | None:
    points = value.get("points")
    if not isinstance(points, list):
        raise RleError("A polygon has no list of points; draw it again.")
    return _fill(points, height, width)


def _vector(value: Mapping[str, Any], height: int, width: int) -> Mask | None:
    vertices = value.get("vertices")
    if not isinstance(vertices, list) or not all(isinstance(v, Mapping) for v in vertices):
        raise RleError("A vector path has no list of vertices; draw it again.")
    if not value.get("closed"):
        return None
    try:
        corners: list[Any] = []
        with np.errstate(all="ignore"):  # Values that are not finite are refused below.
            for k, vertex in enumerate(vertices):
                corners += _edge(vertices[k - 1], vertex)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise RleError("A vector path has a vertex without a place; draw it again.") from None
    return _fill(corners, height, width)


def _edge(start: Mapping[str, Any], end: Mapping[str, Any]) -> list[NDArray[np.float64]]:
    """Points of an edge, a line or cubic Bezier curve, after its start, in percent of the image."""
    last = np.array([end["x"], end["y"]], dtype=np.float64)
    first_pull, second_pull = start.get("controlPoint2"), end.get("controlPoint1")
    if not (start.get("isBezier") or end.get("isBezier")) or not (first_pull or second_pull):
        return [last]
    first = np.array([start["x"], start["y"]], dtype=np.float64)
    pull = np.array([first_pull["x"], first_pull["y"]]) if first_pull else first
    push = np.array([second_pull["x"], second_pull["y"]]) if second_pull else last
    return [
        (1 - t) ** 3 * first + 3 * (1 - t) ** 2 * t * pull + 3 * (1 - t) * t**2 * push + t**3 * last
        for t in np.linspace(0, 1, CURVE_STEPS + 1)[1:]
    ]


def _fill(points: list[Any], height: int, width: int) -> Mask | None:
    """The inside of a closed outline of [x, y] in percent of the image."""
    try:
        corners = np.array(points, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise RleError(
            "An outline has a corner that is not a pair of numbers; draw it again."
        ) from None
    if corners.shape[0] < 3:
        return None
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise RleError("An outline has a corner that is not a pair of numbers; draw it again.")
    # cv2's (0, 0) is the centre of the first pixel, half a pixel inside the image. Corners far
    # outside would overflow its fixed-point numbers.
    pixels = np.clip(corners, *OUTSIDE) / 100 * (width, height) - 0.5
    fixed = np.rint(pixels * 2**SUBPIXEL_BITS).astype(np.int32)
    canvas = np.zeros((height, width), dtype=np.uint8)
    # fillPoly also draws the edges, so bridges must be removed first.
    cv2.fillPoly(canvas, parted(fixed), 1, shift=SUBPIXEL_BITS)
    return canvas.astype(np.bool_)


def _bitmask(value: Mapping[str, Any], height: int, width: int) -> Mask | None:
    url = value.get("imageDataURL")
    if not isinstance(url, str):
        return None
    head, _, body = url.partition(",")
    if head != PNG_URL:
        raise ImageError("A bitmask is not a PNG data URL; draw it again.")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise ImageError("A bitmask is not valid base64; draw it again.") from None
    mask = from_layer_png(data, most=max(BITMASK_FACTOR * height * width, LEAST_BITMASK))
    return resized(mask, (height, width))


_READERS = {"brush": _brush, "polygon": _polygon, "vector": _vector, "bitmask": _bitmask}
