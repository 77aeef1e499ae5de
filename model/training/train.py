"""Trains a network of the small kind by a recipe: ``maskloop train default``.

Each image of a step is encoded once for many targets. A killed run goes on from ``RUN/state.pt`` at
the step it had reached; ``RUN/log.csv`` holds its curves and ``RUN/model.safetensors`` the averaged
weights. Under torchrun the images of a step are spread over its processes.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.checkpoints.files import load, save
from model.data.crops import Crop
from model.errors import UNREADABLE, CheckpointError
from model.evaluation.curves import evaluate_folder, summarize
from model.network.config import SegNextConfig
from model.network.segnext import SegNext
from model.progress import Progress, silent
from model.training.batches import batches
from model.training.chance import seeded, step_seed
from model.training.distributed import Team, join_team
from model.training.episodes import episode_loss
from model.training.optimisation import clip_gradients, follow, long_schedule
from model.training.recipe import Recipe
from model.training.run_folder import Log, resume, save_state

VALIDATION_CLICKS = 5
# A click's disk covers a third of a patch, so weights of the usual size would hardly let the
# network see a prompt at first.
PROMPT_GAIN = 4


def train(recipe: Recipe, out: Path, device: str = "cpu", progress: Progress = silent) -> SegNext:
    """Train a network, or continue the run that ``out`` holds.

    What is drawn depends on the recipe's seed alone, and the caller's PyTorch random state is left
    as it was.

    Args:
        recipe: how to train.
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
        start = resume(out / "state.pt", model, average, optimizer)
        model.train()
        log = Log(out / "log.csv")
        for step, crops in enumerate(log.waiting(batches(recipe, start, team.rank)), start=start):
            rate = recipe.learning_rate * long_schedule(step, recipe.steps, recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["scale"]
            with seeded(step_seed(recipe.seed, step, team.rank), team.device):
                loss = _loss(model, crops, recipe, step, team)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            team.mean_gradients(model.parameters())
            clip_gradients(model.parameters())
            optimizer.step()
            follow(zip(average.parameters(), model.parameters(), strict=True), recipe.ema, step)
            log.loss(float(loss.detach()))
            if not team.leads:
                continue
            ended = step + 1 == recipe.steps
            if ended or (step + 1) % recipe.save_every == 0:
                save(average, out / "model.safetensors")
                measure = ended or (step + 1) % recipe.validate_every == 0
                log.write(step + 1, rate, _validate(average, recipe) if measure else {})
                # Saved last: a run that is killed before this repeats the work above.
                save_state(out / "state.pt", model, average, optimizer, step + 1)
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
    """The network before the first step; every process builds the same one."""
    config = recipe.config
    with seeded(recipe.seed):
        model = SegNext(config)
    if recipe.weights is not None:
        model.load_state_dict(_of_shape(config, recipe.weights).state_dict())
    else:
        with torch.no_grad():
            model.visual_prompts_encoder.proj.weight.mul_(PROMPT_GAIN)
    if recipe.warm_start is not None:
        load_backbone(model, recipe.warm_start)
    return model


def _of_shape(config: SegNextConfig, weights: Path) -> SegNext:
    """The network of a checkpoint, which must have the shape ``config``."""
    model = load(weights)
    if replace(model.config, confidence=()) != config:
        raise CheckpointError(f"{weights.name} is of another shape; train from one of this shape.")
    return model


def _loss(model: SegNext, crops: list[Crop], recipe: Recipe, step: int, team: Team) -> Tensor:
    """The loss of one step, a scalar: each crop is encoded once and decoded for its targets."""
    rng = np.random.default_rng((recipe.seed, step, team.rank, 1))
    images = torch.stack([model.preprocess_crop(crop.image) for crop in crops]).to(team.device)
    kind = torch.device(team.device).type
    with torch.autocast(kind, torch.bfloat16, enabled=recipe.bf16):
        features, skips = model.backbone(images.to(memory_format=torch.channels_last))
        # From one row for each crop to one row for each target.
        counts = torch.tensor([len(crop.targets) for crop in crops], device=team.device)
        features = features.repeat_interleave(counts, 0)
        skips = tuple(skip.repeat_interleave(counts, 0) for skip in skips)
        targets = np.concatenate([crop.targets for crop in crops])
        known = np.concatenate([np.repeat(c.known[None], len(c.targets), 0) for c in crops])
        others = np.concatenate([c.objects & ~c.targets for c in crops])
        return episode_loss(
            model, features, skips, targets, known, others, rng, recipe.edge, recipe.kinds
        )


def _optimizer(model: SegNext, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW; biases, norms and the backbone have no weight decay."""
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


def _validate(average: SegNext, recipe: Recipe) -> dict[str, float]:
    """The figures of the averaged weights on the validation set; none where there is no set."""
    if recipe.validation is None:
        return {}
    curves = evaluate_folder(average, recipe.validation.items(), clicks=VALIDATION_CLICKS)
    return summarize(curves["click"].iou)
