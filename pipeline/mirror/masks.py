"""Writes masks as FiftyOne reads them: a bounding box and a PNG of the part inside it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from model.files import replacing
from model.masks import Mask


@dataclass(frozen=True)
class BoxedMask:
    """A mask on disk. ``box`` is left, top, width, height as shares of the image, in [0, 1]."""

    path: Path
    box: tuple[float, float, float, float]


class MaskFolder:
    """PNG files of masks, named by their content, so that the same mask is written only once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, mask: Mask) -> BoxedMask | None:
        """Write a mask, bool [H, W]; None for an empty mask, which has no box."""
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        if not width:
            return None
        part = mask[top : top + height, left : left + width]
        path = self._path(part)
        if not path.exists():
            _write(path, part)
        rows, cols = mask.shape
        return BoxedMask(path, (left / cols, top / rows, width / cols, height / rows))

    def keep_only(self, used: set[str]) -> int:
        """Delete files not named in ``used`` (full paths); return how many."""
        gone = [path for path in self.folder.glob("*/*.png") if str(path) not in used]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _path(self, part: Mask) -> Path:
        name = hashlib.sha256(repr(part.shape).encode() + np.packbits(part).tobytes()).hexdigest()
        return self.folder / name[:2] / f"{name[:40]}.png"


def _write(path: Path, part: Mask) -> None:
    # The App may read files while the mirror runs, so a file appears only when it is complete.
    with replacing(path, private=True) as file:
        # In 8 bits, because FiftyOne counts every value except 0 as the object.
        Image.fromarray(part.astype(np.uint8) * 255).save(file, format="PNG")
