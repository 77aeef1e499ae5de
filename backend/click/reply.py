"""From the network's answer to the region Label Studio draws."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.click.prompts import Mark
from model.masks import Mask
from pipeline.masks import rle as codec
from pipeline.masks.ops import clean, smooth

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 2000  # of a reply besides the RLE's numbers
WIDEST = 256  # pixels; a mask that needs more smoothing than this is noise


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """A mask as it is sent: its RLE, and whether it had to be smoothed to fit."""

    rle: bytes
    empty: bool
    smoothed: bool


def shape_reply(mask: Mask, marks: Iterable[Mark], max_bytes: int) -> Sent:
    """Tidy a mask, and smooth it as far as its reply must shrink to fit ``max_bytes``.

    Args:
        mask: bool [H, W] at the image's size.
        marks: in pixels; what was clicked on survives the tidying.
        max_bytes: of the JSON reply.
    """
    touched = [(mark.y, mark.x) for mark in marks if mark.kind == "click"]
    tidy = clean(mask, touched)
    data = codec.encode(tidy)
    budget = max(max_bytes - ENVELOPE_BYTES, 0)
    radius, fits = 1, json_bytes(data) <= budget
    smoothed = not fits
    while not fits and radius <= WIDEST:
        # From the mask as it came: tidying noise first would decide by its specks, not its mass.
        tidy = clean(smooth(mask, radius), touched)
        data = codec.encode(tidy)
        fits = json_bytes(data) <= budget
        radius *= 2
    if not fits:
        log.warning("A mask is too ragged for a reply of %d bytes and was left out.", max_bytes)
        tidy = np.zeros_like(mask)
        data = codec.encode(tidy)
    return Sent(rle=data, empty=not tidy.any(), smoothed=smoothed)


def json_bytes(rle: bytes) -> int:
    """Length of an RLE as a JSON list of numbers without spaces."""
    values: NDArray[np.uint8] = np.frombuffer(rle, dtype=np.uint8)
    digits = 1 + np.count_nonzero(values > 9) + np.count_nonzero(values > 99)
    return int(values.size + digits + values.size)


def to_json(results: list[object]) -> bytes:
    """The body of an answer to /predict, in as few bytes as JSON allows."""
    return json.dumps({"results": results}, separators=(",", ":")).encode()
