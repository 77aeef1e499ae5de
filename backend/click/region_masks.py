"""The masks of the regions that a page shows, which every request brings along."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.click.hints import strokes_mask
from model.errors import MaskloopError
from model.masks import Mask, resized
from model.network.prediction import CANVAS
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import mask_of
from pipeline.storage.cache import Cache


class Sent:
    """The regions that replies were sent as: outlining a large mask takes long, and every request
    and every opened task shows them again."""

    def __init__(self, most: int = 300) -> None:
        self._known = Cache[tuple[Any, ...], dict[str, Any]](most, lambda _: 1)

    def region(
        self,
        reply_id: int,
        config: LabelConfig,
        make: Callable[[], dict[str, Any]],
        *,
        scored: bool,
    ) -> dict[str, Any]:
        """The region of a reply under a labelling config, made when it is not known."""
        if config.output == "brush":  # run lengths are made at once, and take much memory as JSON
            return make()
        key = reply_id, config.output, config.output_tag, config.image_tag, scored
        return self._known.get(key, make)


class Drawings:
    """What regions draw, as fine as a previous mask need be: at most ``CANVAS`` pixels a side.
    Large masks take long to read, so what was read is remembered."""

    def __init__(self, max_bytes: int = 32_000_000) -> None:
        self._known = Cache[bytes, _Packed](max_bytes, lambda packed: len(packed.bits) + 100)

    def mask(self, region: Any) -> Mask | None:
        """A region's mask; None when it is none that can be read."""
        if not isinstance(region, Mapping) or not isinstance(region.get("value"), Mapping):
            return None
        return self._known.get(_key(region), lambda: _packed(_drawn(region))).mask()


def _key(region: Mapping[str, Any]) -> bytes:
    """A digest of all that a region's mask follows from."""
    value, data = dict(region["value"]), b""
    numbers = value.get("rle")
    if isinstance(numbers, list):
        try:
            data = bytes(numbers)  # much sooner than as JSON
            del value["rle"]
        except (ValueError, TypeError):
            pass
    rest = [region.get("type"), region.get("original_height"), region.get("original_width"), value]
    digest = hashlib.blake2b(json.dumps(rest).encode(), digest_size=16)
    digest.update(data)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class _Packed:
    """A mask at a bit for each pixel; no pixels: none."""

    bits: bytes
    shape: tuple[int, int]

    def mask(self) -> Mask | None:
        if not self.bits:
            return None
        count = self.shape[0] * self.shape[1]
        bits = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=count)
        return bits.astype(np.bool_).reshape(self.shape)


def _packed(mask: Mask | None) -> _Packed:
    if mask is None:
        return _Packed(b"", (0, 0))
    return _Packed(np.packbits(mask).tobytes(), (mask.shape[0], mask.shape[1]))


def _drawn(region: Any) -> Mask | None:
    try:
        mask = mask_of(region)
        painted = strokes_mask(region, mask)  # since the pixels were saved
    except MaskloopError:  # somebody else's damage must not cost this click its answer
        return None
    mask = mask if painted is None else painted
    if mask is None:
        return None
    shrink = min(1.0, CANVAS / max(mask.shape))
    return resized(mask, tuple(max(round(side * shrink), 1) for side in mask.shape))
