"""How a network is trained, as a value read from a YAML file.

``model/recipes/default.yaml`` trains the small model, ``larger.yaml`` one for those with a GPU; how
the weights that ship were made is in ``model/weights/README.md``.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from model.data.datasets import MaskItem, read_folder
from model.errors import RecipeError
from model.network.config import SMALL, SegNextConfig
from model.training.first_prompts import KINDS


@checked(frozen=True, config={"extra": "forbid"})
class DataSource:
    """A folder of images and masks (``model.data.datasets``).

    Attributes:
        folder: relative to the recipe's own folder, or absolute.
        split: keep only lines of the manifest with this split; None: all.
        share: how often its images are drawn, beside those of the other folders: 2 is twice as
            often as 1.
        limit: only the first so many images; None: all.
    """

    folder: Path
    split: str | None = None
    share: float = 1.0
    limit: int | None = None

    def items(self) -> list[MaskItem]:
        """Its images. Raises DatasetError where the folder does not hold what it should."""
        return read_folder(self.folder, self.split)[: self.limit]


@checked(frozen=True, config={"extra": "forbid"})
class Recipe:
    """One training run.

    Attributes:
        data: what is learned from.
        validation: what the averaged weights are measured on, every ``validate_every`` steps:
            mean IoU after 1 and 5 clicks. None: nothing.
        shape: what differs from the small network (``model.network.config.SMALL``).
        warm_start: a timm state dict for the backbone of the small encoder.
        weights: a checkpoint of this shape to start from instead of random numbers.
        steps: optimiser steps of the whole schedule.
        images, targets: images a step and process, and targets decoded from each one's single
            encoding.
        crop: side of the training crops, in pixels; divides by 32.
        kinds: how often a target starts from a click, box, polygon, scribble or mask, as shares.
        learning_rate: peak, of everything but the backbone; ``backbone_scale`` times it for that.
        warmup: steps of linear rise before the cosine's fall.
        ema: decay of the averaged weights, which are the ones that are kept.
        edge: by how much pixels near the target's edge count more in the loss; 0: not.
        bf16: autocast to bfloat16; pays on CPUs and GPUs with matrix units for it.
        workers: processes that prepare crops ahead of each training process.
        seed: of everything that is drawn: the same seed, machine and versions give the same run.
        save_every: steps between two states that a killed run goes on from.
    """

    data: list[DataSource]
    validation: DataSource | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    warm_start: Path | None = None
    weights: Path | None = None
    steps: int = 6000
    images: int = 4
    targets: int = 8
    crop: int = 320
    kinds: dict[str, float] = field(default_factory=lambda: dict(KINDS))
    learning_rate: float = 5e-4
    backbone_scale: float = 0.2
    weight_decay: float = 0.02
    warmup: int = 200
    ema: float = 0.998
    edge: float = 0.0
    bf16: bool = True
    workers: int = 1
    seed: int = 0
    save_every: int = 250
    validate_every: int = 1000

    @property
    def config(self) -> SegNextConfig:
        """The network's shape. Raises CheckpointError where it cannot be."""
        return SegNextConfig.from_json(json.dumps(asdict(SMALL) | self.shape, default=str))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; its paths are relative to its own folder.

    Raises:
        RecipeError: there is no such file, it is not YAML, a name is unknown or a value cannot be.
        CheckpointError: the shape it asks for cannot be built.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"{path} cannot be read as a recipe ({reason}); check it.") from None
    try:
        recipe = TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
            for fault in error.errors()[:5]
        )
        raise RecipeError(f"{path.name} is no recipe ({faults}); mend it.") from None
    _check(recipe, path.name)
    return _resolved(recipe, path.parent)


def _check(recipe: Recipe, name: str) -> None:
    sources = [*recipe.data, *([recipe.validation] if recipe.validation else [])]
    counts = (recipe.steps, recipe.images, recipe.targets, recipe.save_every, recipe.validate_every)
    sound = (
        recipe.data
        and all(count >= 1 for count in counts)
        and recipe.workers >= 0
        and recipe.crop >= 32
        and recipe.crop % 32 == 0
        and recipe.learning_rate >= 0
        and 0 <= recipe.ema < 1
        and recipe.seed >= 0
        and recipe.weight_decay >= 0
        and all(source.share > 0 for source in recipe.data)
        and all(source.limit is None or source.limit > 0 for source in sources)
        and set(recipe.kinds) <= set(KINDS)
        and all(share >= 0 for share in recipe.kinds.values())
        and 0 < sum(recipe.kinds.values()) < math.inf
    )
    if not sound:
        raise RecipeError(
            f"{name} holds a number out of range; counts are 1 or more, crop divides by 32, "
            "ema is below 1, shares are above 0, data names a folder, kinds are of "
            f"{', '.join(KINDS)}."
        )
    if recipe.config.encoder != "mobilenetv2":  # a shape that cannot be is refused by asking for it
        raise RecipeError(f"{name} asks for a plain transformer; recipes train the small encoder.")


def _resolved(recipe: Recipe, base: Path) -> Recipe:
    def place(path: Path | None) -> Path | None:
        return None if path is None else base / path

    def source(each: DataSource) -> DataSource:
        return replace(each, folder=base / each.folder)

    return replace(
        recipe,
        data=[source(each) for each in recipe.data],
        validation=None if recipe.validation is None else source(recipe.validation),
        warm_start=place(recipe.warm_start),
        weights=place(recipe.weights),
    )
