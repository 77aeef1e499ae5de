"""The crops that each step of a run learns from, drawn ahead of the step by other processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from model.data.crops import MIN_AREA, Crop, make_crop
from model.data.datasets import MaskItem
from model.errors import DatasetError
from model.training.recipe import Recipe

MAX_TRIES = 100  # crops drawn, on average, for each crop that is wanted
PREFETCH = 4  # steps that each worker process prepares in advance


class Steps(Dataset[list[Crop] | DatasetError]):
    """The crops of each step, or the error why there are none.

    An error is returned, not raised, because one that leaves a worker process by itself arrives as
    a traceback. What a step draws depends only on the seed, its number and the process's rank, so
    a resumed run sees what an unbroken one would.
    """

    def __init__(self, recipe: Recipe, rank: int) -> None:
        self._recipe, self._rank = recipe, rank
        self._items: list[MaskItem] = []
        weights: list[float] = []
        for source in recipe.data:
            items = source.items()
            self._items += items
            weights += [source.share] * len(items)
        self._edges = np.cumsum(weights) / sum(weights)

    def __getitem__(self, step: int) -> list[Crop] | DatasetError:
        try:
            return self._draw(step)
        except DatasetError as error:
            return error

    def _draw(self, step: int) -> list[Crop]:
        recipe = self._recipe
        rng = np.random.default_rng((recipe.seed, step, self._rank, 0))
        crops: list[Crop] = []
        for _ in range(MAX_TRIES * recipe.images):
            item = self._items[int(np.searchsorted(self._edges, rng.random(), side="right"))]
            crop = make_crop(item, recipe.crop, recipe.targets, rng)
            if crop is not None:
                crops.append(crop)
            if len(crops) == recipe.images:
                return crops
        raise DatasetError(
            f"Hardly any of {MAX_TRIES * recipe.images} crops showed an object of {MIN_AREA} "
            "pixels; give masks of larger objects, or larger crops."
        )


def batches(recipe: Recipe, start: int, rank: int) -> Iterator[list[Crop] | DatasetError]:
    """The crops of each step from ``start`` (from 0) to the end, or the error why there are none.

    Args:
        rank: of this process among those that train together.
    """
    loader = DataLoader(
        Steps(recipe, rank),
        batch_size=None,
        sampler=range(start, recipe.steps),
        num_workers=recipe.workers,
        prefetch_factor=PREFETCH if recipe.workers else None,
        collate_fn=_as_is,
        generator=torch.Generator(),  # else the loader would draw on the caller's generator
    )
    return iter(loader)


def _as_is(crops: list[Crop] | DatasetError) -> list[Crop] | DatasetError:
    return crops
