"""Caches for the regions that a page shows, which every request sends again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from model.errors import MaskloopError
from model.masks import Mask, resized
from model.network.prediction import CANVAS
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.strokes import strokes_mask
from pipeline.labelstudio.types import RegionJson
from pipeline.storage.cache import Cache

MOST_SENT = 300  # regions kept as JSON
MAX_BYTES = 32_000_000  # of masks kept
ENTRY_BYTES = 100  # of a kept mask besides its bits


class SentRegions:
    """The regions that replies were sent as. Outlining a large mask takes long, and every request
    and every opened task needs the same regions again."""

    def __init__(self, most: int = MOST_SENT) -> None:
        self._known = Cache[tuple[Any, ...], RegionJson](most, lambda _: 1)

    def region(
        self,
        reply_id: int,
        config: LabelConfig,
        make: Callable[[], RegionJson],
        *,
        scored: bool,
    ) -> RegionJson:
        """The region of a reply for a labelling config; ``make`` is called if it is not known."""
        if config.output == "brush":  # Run lengths are quick to make, and large as JSON.
            return make()
        key = reply_id, config.output, config.output_tag, config.image_tag, scored
        return self._known.get(key, make)


class RegionMasks:
    """The masks that regions draw, shrunk to at most ``CANVAS`` pixels a side, which is as fine as
    a previous mask needs to be. Large masks take long to read, so they are kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._known = Cache[bytes, _Packed](
            max_bytes, lambda packed: len(packed.bits) + ENTRY_BYTES
        )

    def mask(self, region: Any) -> Mask | None:
        """A region's mask, bool [h, w]; None if it has no mask or one that cannot be read."""
        if not isinstance(region, Mapping) or not isinstance(region.get("value"), Mapping):
            return None
        return self._known.get(_key(region), lambda: _packed(_drawn(region))).mask()


def _key(region: Mapping[str, Any]) -> bytes:
    """A digest of everything that decides a region's mask."""
    value, data = dict(region["value"]), b""
    numbers = value.get("rle")
    if isinstance(numbers, list):
        try:
            data = bytes(numbers)  # This is much faster than writing JSON.
            del value["rle"]
        except (ValueError, TypeError):
            pass
    rest = [region.get("type"), region.get("original_height"), region.get("original_width"), value]
    digest = hashlib.blake2b(json.dumps(rest).encode(), digest_size=16)
    digest.update(data)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class _Packed:
    """A mask with one bit for each pixel; without bits, no mask."""

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
        painted = strokes_mask(region, mask)  # The strokes are newer than the saved pixels.
    except MaskloopError:  # A damaged region must not prevent the answer to this click.
        return None
    mask = mask if painted is None else painted
    if mask is None:
        return None
    shrink = min(1.0, CANVAS / max(mask.shape))
    return resized(mask, tuple(max(round(side * shrink), 1) for side in mask.shape))
