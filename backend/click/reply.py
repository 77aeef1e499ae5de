"""Turns the network's answer into the region that Label Studio draws."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.request.prompts import Mark
from backend.request.session import OpenRegion, Reply
from model.masks import Mask
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import output_region
from pipeline.labelstudio.types import PredictionJson, RegionJson
from pipeline.masks.coded import CodedMask
from pipeline.masks.ops import clean, smooth

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 2000  # of a reply, without the numbers of the RLE
WIDEST = 256  # pixels of smoothing; a mask that needs more than this is noise


@dataclass(frozen=True, slots=True, eq=False)
class ShapedMask:
    """A mask as it is sent, and whether it had to be smoothed to fit."""

    coded: CodedMask
    empty: bool
    smoothed: bool


def shape_reply(mask: Mask, marks: Iterable[Mark], max_bytes: int) -> ShapedMask:
    """Clean a mask, and smooth it until its reply fits into ``max_bytes``.

    Args:
        mask: bool [H, W] at the image's size.
        marks: in pixels; cleaning keeps the parts that were clicked on.
        max_bytes: most bytes of the JSON reply.
    """
    touched = [(mark.y, mark.x) for mark in marks if mark.kind == "click"]
    coded = CodedMask.of_mask(clean(mask, touched))
    budget = max(max_bytes - ENVELOPE_BYTES, 0)
    radius, fits = 1, json_bytes(coded.rle) <= budget
    smoothed = not fits
    while not fits and radius <= WIDEST:
        # Smooth the original mask: cleaning a noisy mask first would judge its specks one by one,
        # and lose the area that they form together.
        coded = CodedMask.of_mask(clean(smooth(mask, radius), touched))
        fits = json_bytes(coded.rle) <= budget
        radius *= 2
    if not fits:
        log.warning("A mask is too ragged for a reply of %d bytes and was left out.", max_bytes)
        coded = CodedMask.of_mask(np.zeros_like(mask))
    return ShapedMask(coded, empty=not coded.mask.any(), smoothed=smoothed)


def reply_region(
    config: LabelConfig,
    region: OpenRegion | Reply,
    mask: CodedMask,
    *,
    score: float | None = None,
    rotation: int = 0,
    tolerance: float,
) -> RegionJson:
    """The region of a mask, of the kind that the labelling config asks for.

    The arguments are those of ``pipeline.labelstudio.regions.output_region``.
    """
    return output_region(
        region_id=region.region_id,
        mask=mask,
        label=region.label,
        config=config,
        score=score,
        rotation=rotation,
        tolerance=tolerance,
    )


def prediction_json(version: str, region: RegionJson | None) -> PredictionJson:
    """One prediction with a region, or without one if nothing was found."""
    if region is None:
        return {"result": [], "score": 0.0, "model_version": version}
    return {"result": [region], "score": region["score"], "model_version": version}


def json_bytes(rle: bytes) -> int:
    """Length of an RLE as a JSON list of numbers without spaces."""
    values: NDArray[np.uint8] = np.frombuffer(rle, dtype=np.uint8)
    digits = 1 + np.count_nonzero(values > 9) + np.count_nonzero(values > 99)
    return int(values.size + digits + values.size)


def to_json(results: list[object]) -> bytes:
    """The body of an answer to /predict, in as few bytes as JSON allows."""
    return json.dumps({"results": results}, separators=(",", ":")).encode()
