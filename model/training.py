"""Trains the small network on a folder of images with masks, from the warm start of its backbone
or from the weights of an earlier run.

    python -m model.training DATA --out RUN --warm-start BACKBONE.pth
    python -m model.training DATA --out RUN --weights CHECKPOINT

Resumes from ``RUN/state.pt`` to the step after a kill; writes ``RUN/log.csv`` and
``RUN/model.safetensors`` (averaged weights) as it goes.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from model.checkpoints import load, save
from model.config import SMALL, SegNextConfig
from model.crops import Crop, make_crop
from model.datasets import MaskItem, read_folder
from model.episodes import episode_loss
from model.errors import CheckpointError, MaskloopError
from model.segnext import SegNext


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes:
        steps: optimiser steps of the whole schedule.
        images, targets: images a step, and targets decoded from each one's single encoding.
        crop: side of the training crops, in pixels.
        learning_rate: peak, of everything but the backbone; ``backbone_scale`` times it for the
            backbone.
        ema: decay of the averaged weights, which are the ones that are kept.
        bf16: autocast to bfloat16; pays on CPUs and GPUs with matrix units for it.
    """

    steps: int = 6000
    images: int = 4
    targets: int = 8
    crop: int = 320
    learning_rate: float = 5e-4
    backbone_scale: float = 0.2
    weight_decay: float = 0.02
    warmup: int = 200
    ema: float = 0.998
    bf16: bool = True
    seed: int = 0
    save_every: int = 250


def train(
    items: list[MaskItem],
    config: TrainConfig,
    out: Path,
    shape: SegNextConfig = SMALL,
    warm_start: Path | None = None,
    weights: Path | None = None,
    device: str = "cpu",
) -> SegNext:
    """Train, or go on with what ``out`` holds.

    Args:
        warm_start: a timm state dict for the backbone; see ``load_backbone``.
        weights: a checkpoint of this shape to start from instead of random numbers.

    Returns:
        The network with averaged weights, also in ``out/model.safetensors``.

    Raises:
        DatasetError: an image or mask cannot be read.
        CheckpointError: the warm start, the weights or the saved state do not fit.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = SegNext(shape).to(device)
    if weights is not None:
        model.load_state_dict(_of_shape(shape, weights).state_dict())
    else:
        with torch.no_grad():  # a disk covers a third of a patch: prompts would start unheard
            model.visual_prompts_encoder.proj.weight.mul_(4)
    if warm_start is not None:
        load_backbone(model, warm_start)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval()
    optimizer = _optimizer(model, config)
    start = _resume(out / "state.pt", model, average, optimizer)
    model.train()
    with Bar(
        *Bar.get_default_columns()[:3],
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("training", total=config.steps, completed=start, loss=float("nan"))
        recent, began = float("nan"), time.monotonic()
        for step, crops in enumerate(_batches(items, config, start), start=start):
            rate = _rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            loss = _step(model, crops, config, step, device)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            _follow(average, model, min(config.ema, (step + 1) / (step + 10)))
            value = float(loss.detach())
            recent = value if math.isnan(recent) else 0.98 * recent + 0.02 * value
            bar.update(task, completed=step + 1, loss=recent)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                _save_state(out / "state.pt", model, average, optimizer, step + 1)
                save(average, out / "model.safetensors")
                _log(out / "log.csv", step + 1, recent, rate, time.monotonic() - began)
    return average


def _of_shape(shape: SegNextConfig, weights: Path) -> SegNext:
    model = load(weights)
    if model.config != shape:
        raise CheckpointError(f"{weights.name} is of another shape; train from one of this shape.")
    return model


def load_backbone(model: SegNext, path: Path) -> None:
    """Load a timm state dict of ``mobilenetv2_100`` into the small encoder's backbone.

    Raises:
        CheckpointError: the file is missing or lacks part of the backbone.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no warm start at {path}; check the path.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    backbone = model.backbone.get_submodule("backbone")
    missing = [name for name in backbone.state_dict() if name not in state]
    if missing:
        raise CheckpointError(f"{path.name} lacks {missing[0]}; give a mobilenetv2_100 state dict.")
    backbone.load_state_dict({name: state[name] for name in backbone.state_dict()})


def _step(model: SegNext, crops: list[Crop], config: TrainConfig, step: int, device: str) -> Tensor:
    rng = np.random.default_rng((config.seed, step, 1))
    images = torch.stack([model.preprocess_crop(crop.image) for crop in crops]).to(device)
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=config.bf16):
        features, skips = model.backbone(images.to(memory_format=torch.channels_last))
        counts = torch.tensor([len(crop.targets) for crop in crops], device=device)
        features = features.repeat_interleave(counts, 0)
        skips = tuple(skip.repeat_interleave(counts, 0) for skip in skips)
        targets = np.concatenate([crop.targets for crop in crops])
        known = np.concatenate([np.repeat(c.known[None], len(c.targets), 0) for c in crops])
        others = np.concatenate([c.objects & ~c.targets for c in crops])
        return episode_loss(model, features, skips, targets, known, others, rng)


def _batches(items: list[MaskItem], config: TrainConfig, start: int) -> Iterator[list[Crop]]:
    """Crops of each step from ``start`` on; every step's chance depends on its number alone, so a
    resumed run sees what an unbroken one would. The next steps are prepared meanwhile."""

    def make(step: int) -> list[Crop]:
        rng = np.random.default_rng((config.seed, step, 0))
        crops: list[Crop] = []
        while len(crops) < config.images:
            item = items[int(rng.integers(len(items)))]
            crop = make_crop(item, config.crop, config.targets, rng)
            if crop is not None:
                crops.append(crop)
        return crops

    ahead = 3
    with ThreadPoolExecutor(2) as pool:
        queue: list[Future[list[Crop]]] = []
        for step in range(start, config.steps):
            while len(queue) < ahead and step + len(queue) < config.steps:
                queue.append(pool.submit(make, step + len(queue)))
            yield queue.pop(0).result()


def _optimizer(model: SegNext, config: TrainConfig) -> torch.optim.Optimizer:
    backbone = list(model.backbone.get_submodule("backbone").parameters())
    ids = {id(p) for p in backbone}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.ndim > 1], "scale": 1.0},
            {"params": [p for p in rest if p.ndim <= 1], "scale": 1.0, "weight_decay": 0.0},
            {"params": backbone, "scale": config.backbone_scale, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )


def _rate(step: int, config: TrainConfig) -> float:
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.learning_rate * warm * max(cosine, 0.01)


@torch.no_grad()
def _follow(average: SegNext, model: SegNext, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


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
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["torch_rng"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not the state of this run ({error}); remove it to start again."
        ) from None
    return int(state["step"])


def _log(path: Path, step: int, loss: float, rate: float, seconds: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "loss", "learning_rate", "seconds_since_start"])
        writer.writerow([step, f"{loss:.5f}", f"{rate:.3e}", f"{seconds:.0f}"])


def main() -> int:
    """Train the small model from the command line."""
    defaults = TrainConfig()
    parser = argparse.ArgumentParser(prog="python -m model.training", description=main.__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--warm-start", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-bf16", action="store_true")
    for name in ("steps", "images", "targets", "crop", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    arguments = parser.parse_args()
    config = TrainConfig(
        steps=arguments.steps,
        images=arguments.images,
        targets=arguments.targets,
        crop=arguments.crop,
        seed=arguments.seed,
        learning_rate=arguments.learning_rate,
        bf16=not arguments.no_bf16,
    )
    try:
        items = read_folder(arguments.data, "train")
        train(
            items,
            config,
            arguments.out,
            warm_start=arguments.warm_start,
            weights=arguments.weights,
            device=arguments.device,
        )
    except MaskloopError as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
