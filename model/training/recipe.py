"""How a network is trained: a recipe, read from a YAML file.

``model/recipes/default.yaml`` trains the small model, ``larger.yaml`` a larger one that needs a
GPU. ``model/weights/README.md`` says how the weights that ship were made.
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
from model.network.segnext import MULTIPLE
from model.training.first_prompts import KINDS


@checked(frozen=True, config={"extra": "forbid"})
class DataSource:
    """A folder of images and masks (``model.data.datasets``).

    Attributes:
        folder: relative to the recipe's own folder, or absolute.
        split: keep only lines of the manifest with this split; None: all.
        share: above 0; how often each of its images is drawn, compared with those of the other
            folders: with 2, twice as often as with 1.
        limit: how many of its images are used, from the first; None: all.
    """

    folder: Path
    split: str | None = None
    share: float = 1.0
    limit: int | None = None

    def items(self) -> list[MaskItem]:
        """Its images. Raises DatasetError as ``model.data.datasets.read_folder``."""
        return read_folder(self.folder, self.split)[: self.limit]


@checked(frozen=True, config={"extra": "forbid"})
class Recipe:
    """One training run.

    Attributes:
        data: what is learned from.
        validation: what the averaged weights are measured on: mean IoU after 1 and 5 clicks. None:
            they are not measured.
        shape: the fields that differ from the small network (``model.network.config.SMALL``).
        warm_start: a timm state dict for the backbone of the small encoder.
        weights: a checkpoint of this shape to start from, instead of random weights.
        steps: optimiser steps of the whole schedule.
        images: images for each step and process; each is encoded once.
        targets: targets decoded from each of these encodings.
        crop: side of the training crops, in pixels; a multiple of 32.
        kinds: how often a target starts from a click, box, polygon, scribble or mask, as shares.
        learning_rate: peak, for everything except the backbone.
        backbone_scale: the backbone's rate, as a share of the others'.
        weight_decay: of AdamW, for weights that are matrices and not in the backbone.
        warmup: steps in which the rate rises linearly, before it falls along a cosine.
        ema: decay of the averaged weights, which are the ones that are kept.
        edge: how much more pixels near the target's edge count in the loss; 0: no more than others.
        bf16: autocast to bfloat16; faster on CPUs and GPUs with matrix units for it.
        workers: processes that prepare crops for each training process.
        seed: 0 or more, of everything that is drawn: the same seed, machine and versions give the
            same run.
        save_every: steps between two saved states, from which a killed run goes on.
        validate_every: steps between two measurements; one is made only where a state is saved.
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
        """The network's shape. Raises CheckpointError where such a network cannot be built."""
        return SegNextConfig.from_json(json.dumps(asdict(SMALL) | self.shape, default=str))


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; its paths are relative to its own folder.

    Raises:
        RecipeError: there is no such file, it is not YAML, a name in it is unknown, or a value is
            of the wrong type or out of range.
        CheckpointError: the shape that it asks for cannot be built.
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
        raise RecipeError(f"{path.name} is not a recipe ({faults}); correct it.") from None
    _check(recipe, path.name)
    return _resolved(recipe, path.parent)


def _check(recipe: Recipe, name: str) -> None:
    """Refuse numbers out of range."""
    sources = [*recipe.data, *([recipe.validation] if recipe.validation else [])]
    counts = (recipe.steps, recipe.images, recipe.targets, recipe.save_every, recipe.validate_every)
    sound = (
        recipe.data
        and all(count >= 1 for count in counts)
        and recipe.workers >= 0
        and recipe.crop >= MULTIPLE
        and recipe.crop % MULTIPLE == 0
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
            f"{name} holds a number out of range; correct it: counts are 1 or more, crop is a "
            f"multiple of {MULTIPLE}, ema is below 1, shares are above 0, data names a folder, and "
            f"kinds are of {', '.join(KINDS)}."
        )
    if recipe.config.encoder != "mobilenetv2":  # building the config refuses impossible shapes
        raise RecipeError(
            f"{name} asks for the encoder {recipe.config.encoder!r}, which recipes cannot train; "
            "remove it from shape."
        )


def _resolved(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with its paths taken relative to the folder ``base``."""

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
