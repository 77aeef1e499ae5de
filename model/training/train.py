"""Trains a network of the small kind by a recipe: ``maskloop train default``.

Each image of a step is encoded once for many targets. A killed run goes on from ``RUN/state.pt`` to
the step it had reached; ``RUN/log.csv`` holds its curves and ``RUN/model.safetensors`` the averaged
weights. Under torchrun the images of a step are spread over its processes.
"""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from model.checkpoints.files import load, save
from model.data.crops import MIN_AREA, Crop, make_crop
from model.data.datasets import MaskItem
from model.errors import UNREADABLE, CheckpointError, DatasetError
from model.evaluation.curves import evaluate_folder, summarize
from model.network.config import SegNextConfig
from model.network.segnext import SegNext
from model.progress import Progress, silent
from model.training.distributed import Team, join_team
from model.training.episodes import episode_loss
from model.training.recipe import Recipe

MOST_DRAWS = 100  # crops tried for each one wanted
COLUMNS = ("step", "loss", "learning_rate", "seconds", "waited", "miou1", "miou5")


def train(recipe: Recipe, out: Path, device: str = "cpu", progress: Progress = silent) -> SegNext:
    """Train, or go on with what ``out`` holds.

    Args:
        recipe: how.
        out: folder of the run.
        device: torch device.
        progress: called after each step, in the leading process only.

    Returns:
        The network with averaged weights, also in ``out/model.safetensors``.

    Raises:
        DatasetError: an image or mask cannot be read.
        CheckpointError: the warm start, the weights or the saved state do not fit.
    """
    out.mkdir(parents=True, exist_ok=True)
    with join_team(device) as team:
        model = _start(recipe).to(team.device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = copy.deepcopy(model).eval()
        optimizer = _optimizer(model, recipe)
        start = _resume(out / "state.pt", model, average, optimizer)
        model.train()
        log = _Log(out / "log.csv")
        for step, crops in enumerate(log.waiting(_batches(recipe, start, team)), start=start):
            rate = _rate(step, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            loss = _loss(model, crops, recipe, step, team)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            team.mean_gradients(model.parameters())
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            _follow(average, model, min(recipe.ema, (step + 1) / (step + 10)))
            log.loss(float(loss.detach()))
            if not team.leads:
                continue
            ended = step + 1 == recipe.steps
            if ended or (step + 1) % recipe.save_every == 0:
                save(average, out / "model.safetensors")
                measure = ended or (step + 1) % recipe.validate_every == 0
                log.write(step + 1, rate, _validate(average, recipe) if measure else {})
                # Last: what a kill before it leaves undone is done again.
                _save_state(out / "state.pt", model, average, optimizer, step + 1)
            progress(step + 1, recipe.steps)
    return average


def load_backbone(model: SegNext, path: Path) -> None:
    """Load a timm state dict of ``mobilenetv2_100`` into the small encoder's backbone.

    Raises:
        CheckpointError: the file is missing, damaged or lacks part of the backbone.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no warm start at {path}; check the path.")
    backbone = model.backbone.get_submodule("backbone")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        backbone.load_state_dict({name: state[name] for name in backbone.state_dict()})
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path.name} is no warm start ({error}); give a mobilenetv2_100 state dict."
        ) from None


def _start(recipe: Recipe) -> SegNext:
    torch.manual_seed(recipe.seed)
    config = recipe.config
    model = SegNext(config)
    if recipe.weights is not None:
        model.load_state_dict(_of_shape(config, recipe.weights).state_dict())
    else:
        with torch.no_grad():  # a disk covers a third of a patch: prompts would start unheard
            model.visual_prompts_encoder.proj.weight.mul_(4)
    if recipe.warm_start is not None:
        load_backbone(model, recipe.warm_start)
    return model


def _of_shape(config: SegNextConfig, weights: Path) -> SegNext:
    model = load(weights)
    if replace(model.config, confidence=()) != config:
        raise CheckpointError(f"{weights.name} is of another shape; train from one of this shape.")
    return model


def _loss(model: SegNext, crops: list[Crop], recipe: Recipe, step: int, team: Team) -> Tensor:
    rng = np.random.default_rng((recipe.seed, step, team.rank, 1))
    images = torch.stack([model.preprocess_crop(crop.image) for crop in crops]).to(team.device)
    kind = torch.device(team.device).type
    with torch.autocast(kind, torch.bfloat16, enabled=recipe.bf16):
        features, skips = model.backbone(images.to(memory_format=torch.channels_last))
        counts = torch.tensor([len(crop.targets) for crop in crops], device=team.device)
        features = features.repeat_interleave(counts, 0)
        skips = tuple(skip.repeat_interleave(counts, 0) for skip in skips)
        targets = np.concatenate([crop.targets for crop in crops])
        known = np.concatenate([np.repeat(c.known[None], len(c.targets), 0) for c in crops])
        others = np.concatenate([c.objects & ~c.targets for c in crops])
        return episode_loss(
            model, features, skips, targets, known, others, rng, recipe.edge, recipe.kinds
        )


class _Steps(Dataset[list[Crop] | DatasetError]):
    """The crops of each step, or why there are none: an error that leaves a worker process by
    itself arrives as a traceback. Its chance depends on the step's number and the process alone,
    so a resumed run sees what an unbroken one would."""

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
        for _ in range(MOST_DRAWS * recipe.images):
            item = self._items[int(np.searchsorted(self._edges, rng.random(), side="right"))]
            crop = make_crop(item, recipe.crop, recipe.targets, rng)
            if crop is not None:
                crops.append(crop)
            if len(crops) == recipe.images:
                return crops
        raise DatasetError(
            f"Of {MOST_DRAWS * recipe.images} crops hardly one showed an object of {MIN_AREA} "
            "pixels; give masks of larger objects, or larger crops."
        )


def _batches(recipe: Recipe, start: int, team: Team) -> Iterator[list[Crop] | DatasetError]:
    loader = DataLoader(
        _Steps(recipe, team.rank),
        batch_size=None,
        sampler=range(start, recipe.steps),
        num_workers=recipe.workers,
        prefetch_factor=4 if recipe.workers else None,
        collate_fn=_as_is,
    )
    return iter(loader)


def _as_is(crops: list[Crop] | DatasetError) -> list[Crop] | DatasetError:
    return crops


def _optimizer(model: SegNext, recipe: Recipe) -> torch.optim.Optimizer:
    backbone = list(model.backbone.get_submodule("backbone").parameters())
    ids = {id(p) for p in backbone}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim > 1], "scale": 1.0},
            {"params": [p for p in rest if p.ndim <= 1], "scale": 1.0, "weight_decay": 0.0},
            {"params": backbone, "scale": recipe.backbone_scale, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )


def _rate(step: int, recipe: Recipe) -> float:
    warm = min(1.0, (step + 1) / max(recipe.warmup, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    return recipe.learning_rate * warm * max(cosine, 0.01)


@torch.no_grad()
def _follow(average: SegNext, model: SegNext, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def _validate(average: SegNext, recipe: Recipe) -> dict[str, float]:
    if recipe.validation is None:
        return {}
    curves = evaluate_folder(average, recipe.validation.items(), clicks=5)
    return summarize(curves["click"].iou)


def _save_state(
    path: Path, model: SegNext, average: SegNext, optimizer: torch.optim.Optimizer, step: int
) -> None:
    scratch = path.with_suffix(".tmp")
    torch.save(
        {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "torch_rng": torch.get_rng_state(),
        },
        scratch,
    )
    os.replace(scratch, path)


def _resume(path: Path, model: SegNext, average: SegNext, optimizer: torch.optim.Optimizer) -> int:
    if not path.is_file():
        return 0
    groups = optimizer.param_groups
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        wanted = [{k: group[k] for k in ("scale", "weight_decay")} for group in groups]
        optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(optimizer.param_groups, wanted, strict=True):
            group.update(values)  # a recipe may change between two parts of a run
        torch.set_rng_state(state["torch_rng"])
        return int(state["step"])
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} is not the state of this run ({error}); remove it to start again."
        ) from None


class _Log:
    """The curves of a run: a smoothed loss, and how long the step waited for its crops."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loss = float("nan")
        self._since = time.monotonic()
        self._waited = 0.0

    def waiting(self, batches: Iterator[list[Crop] | DatasetError]) -> Iterator[list[Crop]]:
        while True:
            began = time.monotonic()
            try:
                crops = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - began
            if isinstance(crops, DatasetError):
                raise crops
            yield crops

    def loss(self, value: float) -> None:
        self._loss = value if math.isnan(self._loss) else 0.98 * self._loss + 0.02 * value

    def write(self, step: int, rate: float, measured: dict[str, float]) -> None:
        """One line: the time and the waiting since the last, in seconds; IoU where measured."""
        now = time.monotonic()
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            figures = [f"{measured[k]:.4f}" if k in measured else "" for k in ("miou1", "miou5")]
            seconds, waited = f"{now - self._since:.1f}", f"{self._waited:.1f}"
            writer.writerow([step, f"{self._loss:.5f}", f"{rate:.3e}", seconds, waited, *figures])
        self._since, self._waited = now, 0.0
