"""A mask together with its brush RLE, each made from the other at most once."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.masks import Mask
from pipeline.masks import rle as codec


@dataclass(eq=False)
class CodedMask:
    """A mask as pixels and as Label Studio's brush RLE; made by ``of_mask`` or ``of_rle``.

    Everything is computed from the pixels. The log and brush regions hold the RLE. Whichever of the
    two was not given is made when it is first needed.

    Attributes:
        height, width: of the upright image, in pixels.
    """

    height: int
    width: int
    _mask: Mask | None = field(default=None, repr=False)
    _rle: bytes | None = field(default=None, repr=False)

    @classmethod
    def of_mask(cls, mask: Mask) -> CodedMask:
        """From pixels, bool [H, W]."""
        return cls(mask.shape[0], mask.shape[1], mask)

    @classmethod
    def of_rle(cls, rle: bytes, height: int, width: int) -> CodedMask:
        """From an RLE, which is not decoded yet."""
        return cls(height, width, None, rle)

    @property
    def mask(self) -> Mask:
        """The pixels, bool [H, W]. Raises RleError when the RLE is damaged."""
        if self._mask is None:
            self._mask = codec.decode(self._rle or b"", self.height, self.width)
        return self._mask

    @property
    def rle(self) -> bytes:
        """The RLE, as ``pipeline.masks.rle.encode`` writes it."""
        if self._rle is None:
            self._rle = codec.encode(self.mask)
        return self._rle
