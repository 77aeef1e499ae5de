"""Made-up pictures of bright shapes on dark ground, for tests that need images with objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def shape_picture(
    seed: int, size: tuple[int, int] = (120, 160)
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A picture uint8 ``[H, W, 3]`` of a disk and a box; their indices 1 and 2, ``[H, W]``."""
    rng = np.random.default_rng(seed)
    height, width = size
    image = rng.integers(10, 50, (height, width, 3), np.uint8)
    mask = np.zeros(size, np.uint8)
    rows, cols = np.indices(size)
    radius = height // 5
    row, col = rng.integers(radius, height - radius), rng.integers(radius, width // 2 - radius + 1)
    mask[(rows - row) ** 2 + (cols - col) ** 2 <= radius**2] = 1
    top, left = rng.integers(4, height // 2), rng.integers(width // 2, width * 2 // 3)
    mask[top : top + height // 3, left : left + width // 4] = 2
    for index in (1, 2):
        colour = rng.integers(170, 240, 3)
        noise = rng.integers(-15, 15, (int((mask == index).sum()), 3))
        image[mask == index] = np.clip(colour + noise, 0, 255).astype(np.uint8)
    return image, mask


def write_folder(folder: Path, n: int, splits: list[str] | None = None) -> None:
    """Write ``n`` shape pictures as a folder of images and masks with a manifest."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    lines = []
    for i in range(n):
        image, mask = shape_picture(i)
        Image.fromarray(image).save(folder / f"images/shape{i}.png")
        indexed = Image.fromarray(mask, "L").convert("P")
        indexed.save(folder / f"masks/shape{i}.png")
        entry = {"name": f"shape{i}", "image": f"images/shape{i}.png"}
        entry |= {"mask": f"masks/shape{i}.png", "split": splits[i] if splits else "train"}
        lines.append(json.dumps(entry))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
