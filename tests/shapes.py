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
    """A picture of a disk and a box, uint8 ``[H, W, 3]``, and their indices 1 and 2, ``[H, W]``."""
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


COLOURS = {
    "red circle": (215, 40, 40),
    "blue square": (40, 60, 215),
    "green triangle": (40, 170, 60),
    "yellow cross": (225, 210, 50),
}


def named_picture(
    seed: int, size: int = 128
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], dict[int, str]]:
    """A picture uint8 ``[L, L, 3]``, indices ``[L, L]``, and the name of each index.

    It shows two or three shapes of ``COLOURS`` on grey noise, each in a different quarter. One kind
    may appear twice.
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 140, (size, size, 1), np.uint8).repeat(3, 2)
    mask = np.zeros((size, size), np.uint8)
    rows, cols = np.indices((size, size))
    names: dict[int, str] = {}
    for index, quarter in enumerate(rng.permutation(4)[: rng.integers(2, 4)].tolist(), start=1):
        name = str(rng.choice(list(COLOURS)))
        half = size // 4
        radius = half * rng.uniform(0.7, 0.95)
        row, col = (
            corner * 2 * half + half + rng.uniform(radius - half, half - radius)
            for corner in divmod(quarter, 2)
        )
        down, right = rows - row, cols - col
        inside = {
            "red circle": down**2 + right**2 <= radius**2,
            "blue square": np.maximum(abs(down), abs(right)) <= radius * 0.85,
            "green triangle": (abs(right) <= (down + radius) / 2) & (abs(down) <= radius),
            "yellow cross": (np.minimum(abs(down), abs(right)) <= radius / 3)
            & (np.maximum(abs(down), abs(right)) <= radius),
        }[name]
        noise = rng.integers(-25, 25, (int(inside.sum()), 3))
        image[inside] = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
        mask[inside], names[index] = index, name
    return image, mask, names


def write_named_folder(folder: Path, seeds: range, split: str = "train", size: int = 128) -> None:
    """Write named pictures as a folder whose manifest names the instances.

    A second call adds pictures to the folder.
    """
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.jsonl").open("a") as manifest:
        for seed in seeds:
            image, mask, names = named_picture(seed, size)
            Image.fromarray(image).save(folder / f"images/{seed}.png")
            Image.fromarray(mask, "L").convert("P").save(folder / f"masks/{seed}.png")
            entry = {"image": f"images/{seed}.png", "mask": f"masks/{seed}.png", "split": split}
            manifest.write(json.dumps(entry | {"categories": names}) + "\n")
