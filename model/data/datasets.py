"""Folders of images with object masks: ``manifest.jsonl``, ``images/`` and ``masks/``.

A mask is an 8-bit palette PNG: 0 background, 1 to 254 instances, 255 ignored pixels. A manifest
line gives ``image`` and ``mask`` relative to the folder, and may give a ``split`` and a
``dataset``. It may also name the instances: each by its index in ``categories`` (``{"1": "cat",
"2": "dog"}``), or all of them in ``category``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from model.errors import DatasetError, PromptError
from model.masks import Mask
from model.network.prompts import Prompt, check_prompt

IGNORE = 255  # index of pixels whose object is not known; they do not count


@dataclass(frozen=True)
class MaskItem:
    """One image of a folder.

    Attributes:
        name: of the image in reports.
        image, mask: paths of the picture and of its mask.
        categories: from an instance's index to its name; None where the manifest gives no names.
        dataset: where the image came from; empty where the manifest does not say.
    """

    name: str
    image: Path
    mask: Path
    categories: Mapping[int, str] | None = field(default=None, hash=False)
    dataset: str = ""

    def load(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The picture and its mask, as from ``load_image`` and ``load_mask``.

        Raises:
            DatasetError: one of them cannot be read, or they do not have the same size.
        """
        image, mask = self.load_image(), self.load_mask()
        if image.shape[:2] != mask.shape:
            raise DatasetError(
                f"{self.mask} does not have the size of its picture (after turning that upright as "
                "its EXIF says); correct the set."
            )
        return image, mask

    def load_image(self) -> npt.NDArray[np.uint8]:
        """The picture, uint8 ``[H, W, 3]`` RGB, upright.

        Raises:
            DatasetError: the picture is missing or damaged.
        """
        try:
            with Image.open(self.image) as file:
                return np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise DatasetError(f"{self.image} cannot be read ({error}); check the set.") from None

    def load_mask(self) -> npt.NDArray[np.uint8]:
        """The index of the instance that each pixel belongs to, uint8 ``[H, W]``.

        Raises:
            DatasetError: the mask is missing, damaged, or not one channel.
        """
        try:
            with Image.open(self.mask) as file:
                mask = np.asarray(file)
        except (OSError, UnidentifiedImageError) as error:
            raise DatasetError(f"{self.mask} cannot be read ({error}); check the set.") from None
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise DatasetError(f"{self.mask} is not an 8-bit palette mask; save it as one.")
        return mask


def read_folder(folder: Path, split: str | None = None) -> list[MaskItem]:
    """The items of a folder, in the manifest's order.

    Args:
        folder: holds ``manifest.jsonl``, ``images/`` and ``masks/``.
        split: keep only lines with this ``split``; None: all.

    Raises:
        DatasetError: there is no manifest, a line is not JSON or lacks a field, or no item is left.
    """
    manifest = folder / "manifest.jsonl"
    if not manifest.is_file():
        raise DatasetError(f"{folder} holds no manifest.jsonl; give a folder of images and masks.")
    items = []
    for number, line in enumerate(manifest.read_text().splitlines(), start=1):
        try:
            entry = json.loads(line)
            if split is None or entry.get("split") == split:
                image, mask = folder / entry["image"], folder / entry["mask"]
                name = entry.get("name", image.stem)
                dataset = str(entry.get("dataset", ""))
                items.append(MaskItem(name, image, mask, _categories(entry), dataset))
        except (ValueError, KeyError, AttributeError, TypeError, PromptError) as error:
            raise DatasetError(f"{manifest}, line {number}: {error!r}; mend the line.") from None
    if not items:
        raise DatasetError(f"{folder} holds no item of split {split!r}; name another.")
    return items


def _categories(entry: Mapping[str, Any]) -> dict[int, str] | None:
    """The names of a manifest line's instances by index; None where it gives none."""
    if "category" not in entry and "categories" not in entry:
        return None
    names: dict[int, str] = {}
    if "category" in entry:
        names = dict.fromkeys(range(1, IGNORE), entry["category"])
    names |= {int(index): name for index, name in entry.get("categories", {}).items()}
    for index, name in names.items():
        check_prompt(Prompt(text=name))
        if not 0 < index < IGNORE:
            raise ValueError(f"{index} is no instance's index")
    return {index: " ".join(name.split()) for index, name in names.items()}


def largest_instance(mask: npt.NDArray[np.uint8]) -> Mask | None:
    """The instance with the most pixels, bool ``[H, W]``, of indices uint8 ``[H, W]``; None when
    there is no instance."""
    areas = np.bincount(mask.ravel(), minlength=256)
    areas[[0, IGNORE]] = 0
    return None if not areas.any() else mask == areas.argmax()
