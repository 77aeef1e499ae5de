"""The masks of the regions that a page shows, which every request brings along."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.hints import strokes_mask
from model.errors import MaskloopError
from model.prediction import CANVAS
from pipeline.cache import Cache
from pipeline.label_config import LabelConfig
from pipeline.masks import Mask, resized
from pipeline.regions import mask_of


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
    Run lengths of large masks take long to read, so what was read of them is remembered."""

    def __init__(self, max_bytes: int = 32_000_000) -> None:
        self._known = Cache[bytes, _Packed](max_bytes, lambda packed: len(packed.bits) + 100)

    def mask(self, region: Any) -> Mask | None:
        """A region's mask; None when it is none that can be read."""
        value = region.get("value") if isinstance(region, Mapping) else None
        numbers = value.get("rle") if isinstance(value, Mapping) else None
        try:
            data = bytes(numbers) if isinstance(numbers, list) else None
        except (ValueError, TypeError):
            data = None
        if data is None:
            return _drawn(region)
        sides = f"{region.get('original_height')} {region.get('original_width')}"
        key = hashlib.blake2b(data, digest_size=16, key=sides.encode()[:64]).digest()
        return self._known.get(key, lambda: _packed(_drawn(region))).mask()


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
        if mask is None:
            mask = strokes_mask(region)
    except MaskloopError:  # somebody else's damage must not cost this click its answer
        return None
    if mask is None:
        return None
    shrink = min(1.0, CANVAS / max(mask.shape))
    return resized(mask, tuple(max(round(side * shrink), 1) for side in mask.shape))
