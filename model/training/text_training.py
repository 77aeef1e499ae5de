"""Trains a text branch on pictures whose objects have names; the rest of the network stays as is.

Every picture is encoded once and its embedding kept on disk, so a step costs only a few decodings.
``model.training.named_pictures`` draws the targets and their first prompts; then clicks correct the
answer, as in every episode.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.errors import UNREADABLE, CheckpointError
from model.files import replacing
from model.network.embedding import stack
from model.network.prompts import Prompt
from model.network.segnext import SegNext
from model.network.text import TextBranch
from model.network.text_tower import tower_dim
from model.progress import Progress, silent
from model.training.chance import seeded, step_seed
from model.training.episodes import corrected_loss
from model.training.named_pictures import Draw, Picture, Words, draw
from model.training.optimisation import clip_gradients, follow, schedule

# Share of the learning rate for the small tower. Its words lie far apart from the start, and at the
# full rate they collapsed into one point.
TOWER_SCALE = 0.1

Pairs = Sequence[tuple[Tensor, Tensor]]  # averaged and learning weights


@dataclass(frozen=True)
class TextTrainConfig:
    """One training of a text branch.

    Attributes:
        tower: what turns words into a vector, as in ``SegNextConfig.text_tower``.
        depth: cross-attention blocks of the branch.
        steps: optimiser steps.
        batch: targets drawn for one step.
        learning_rate: peak; warms up over a tenth of the steps, then falls along a cosine.
        decoder: share of the rate at which the decoder learns as well. With 0, prompts without
            text are answered as before, bit for bit.
        ema: decay of the averaged weights, which are the ones that are kept.
        seed: 0 or more; of everything that is drawn.
        save_every: steps between two saved states, from which a killed run goes on.
    """

    tower: str = "small"
    depth: int = 2
    steps: int = 600
    batch: int = 8
    learning_rate: float = 1e-3
    decoder: float = 0.0
    ema: float = 0.98
    seed: int = 0
    save_every: int = 50


def train_text(
    base: SegNext,
    pictures: Sequence[Picture],
    config: TextTrainConfig,
    state: Path,
    progress: Progress = silent,
) -> SegNext:
    """Give a copy of ``base`` a text branch, or continue the run that ``state`` holds.

    What is drawn depends on the config's seed alone, and the caller's PyTorch random state is left
    as it was.

    Args:
        base: left as it is. Its own text branch, if it has one, is trained further where its tower
            and depth are those of ``config``; else it is replaced.
        pictures: what is learned from.
        config: how to train.
        state: file from which a killed run goes on.
        progress: called after each step.

    Returns:
        A new network in evaluation mode with the same encoder, bit for bit.

    Raises:
        CheckpointError: the tower's weights cannot be had, or the state is of another run.
        DatasetError: a mask cannot be read.
    """
    vocabulary = sorted({name for picture in pictures for name in picture.names})
    model = with_branch(base, config)
    average = copy.deepcopy(model)
    parameters = _learning(model, config)
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0, fused=True)
    run = _identity(base, pictures, config)
    model.train(config.decoder > 0)
    words = Words(vocabulary, closed=config.tower == "small")
    both = zip(average.parameters(), model.parameters(), strict=True)
    pairs = [(slow, fast) for slow, fast in both if fast.requires_grad]
    start = _resume(state, run, pairs, optimizer)
    for step in range(start, config.steps):
        # What a step draws depends only on the seed and its number: a resumed run sees what an
        # unbroken one would.
        rng = np.random.default_rng((config.seed, step))
        for group in optimizer.param_groups:
            rate = config.learning_rate * schedule(step, config.steps)
            group["lr"] = rate * group["scale"]
        optimizer.zero_grad(set_to_none=True)
        chosen = rng.choice(len(pictures), config.batch, replace=len(pictures) < config.batch)
        drawn = [draw(model, pictures[i], words, config.decoder > 0, rng) for i in chosen]
        with seeded(step_seed(config.seed, step), model.device):
            _backward(model, drawn, rng)
        clip_gradients([fast for _, fast in pairs])
        optimizer.step()
        follow(pairs, config.ema, step)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            _save_state(state, run, pairs, optimizer, step + 1)
        progress(step + 1, config.steps)
    return average.eval().requires_grad_(True)


def with_branch(base: SegNext, config: TextTrainConfig) -> SegNext:
    """A copy of ``base`` with a text branch: its own, or a new one that changes no answer."""
    shape = replace(
        base.config,
        text_tower=config.tower,
        text_dim=tower_dim(config.tower),
        text_depth=config.depth,
    )
    grown = copy.deepcopy(base)
    if shape != base.config:
        with seeded(config.seed):
            grown.text_branch = TextBranch(shape).to(base.device)
        grown.config = shape
        grown.text_branch.remember_tower()
    return grown.eval()


def _backward(model: SegNext, drawn: Sequence[Draw], rng: np.random.Generator) -> None:
    """Add the gradients of one step."""
    # Images of different shapes cannot be stacked: each shape is one part of the step.
    shapes: dict[tuple[int, ...], list[Draw]] = {}
    for each in drawn:
        shapes.setdefault(tuple(each.embedding.features.shape), []).append(each)
    for alike in shapes.values():
        features, skips = stack([each.embedding for each in alike], model.device)
        targets = np.stack([each.target for each in alike])  # [B, H, W]
        known = np.stack([each.known for each in alike])
        prompts = [each.prompt for each in alike]
        loss = corrected_loss(model, features, skips, targets, known, prompts, rng)
        loss = loss + _coarse_loss(model, features, targets, known, prompts)
        (loss * (len(alike) / len(drawn))).backward()


def _coarse_loss(
    model: SegNext,
    features: Tensor,
    targets: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    prompts: Sequence[Prompt],
) -> Tensor:
    """How wrong the branch's own guess is of where the named objects are: a scalar.

    It teaches the branch long before the decoder understands what the branch adds.

    Args:
        features: ``[B, C, h, w]``.
        targets, known: bool ``[B, H, W]`` at the network's input size.
    """
    text = model.text_vectors(prompts)
    if text is None or model.text_branch is None:
        return features.new_zeros(())
    logits = model.text_branch.coarse(features, text)
    grid = (logits.shape[2], logits.shape[3])
    truth, weight = (
        F.adaptive_avg_pool2d(torch.from_numpy(each)[:, None].to(logits), grid)
        for each in (targets & known, known)
    )
    said = torch.tensor([prompt.text is not None for prompt in prompts], device=weight.device)
    weight = weight * said[:, None, None, None]
    loss = F.binary_cross_entropy_with_logits(logits, truth, weight, reduction="sum")
    return loss / weight.sum().clamp_min(1)


def _learning(model: SegNext, config: TextTrainConfig) -> list[dict[str, Any]]:
    """The optimiser's groups; everything outside them is frozen."""
    assert model.text_branch is not None
    model.requires_grad_(False)
    model.text_branch.requires_grad_(True)
    branch = {id(parameter) for parameter in model.text_branch.parameters()}
    tower = [] if model.text_branch.tower is None else [*model.text_branch.tower.parameters()]
    in_tower = {id(parameter) for parameter in tower}
    groups: list[dict[str, Any]] = [
        {
            "params": [p for p in model.text_branch.parameters() if id(p) not in in_tower],
            "scale": 1.0,
        },
        {"params": tower, "scale": TOWER_SCALE},
    ]
    if config.decoder:
        decoder = [p for p in model.decoder_parameters() if id(p) not in branch]
        groups.append(
            {"params": [p.requires_grad_(True) for p in decoder], "scale": config.decoder}
        )
    return groups


def _identity(base: SegNext, pictures: Sequence[Picture], config: TextTrainConfig) -> str:
    """A digest of everything that decides what a run learns; another run's state is refused."""
    digest = hashlib.sha256(repr((config, base.config)).encode())
    for picture in pictures:
        digest.update(repr((picture.key, tuple(picture.names))).encode())
    for tensor in base.state_dict().values():
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save_state(
    path: Path, run: str, pairs: Pairs, optimizer: torch.optim.Optimizer, step: int
) -> None:
    state: Mapping[str, object] = {
        "run": run,
        "step": step,
        "weights": [(slow.detach(), fast.detach()) for slow, fast in pairs],
        "optimizer": optimizer.state_dict(),
    }
    with replacing(path) as file:
        torch.save(state, file)


def _resume(path: Path, run: str, pairs: Pairs, optimizer: torch.optim.Optimizer) -> int:
    """How many steps a saved state had done, after taking it over; 0 where there is none."""
    if not path.is_file():
        return 0
    remedy = f"remove {path.parent} to start again."
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["run"] != run:
            raise CheckpointError(
                f"{path} is of a training with other pictures, settings or base; repeat that one's "
                f"command to go on with it, or {remedy}"
            )
        with torch.no_grad():
            for pair, saved in zip(pairs, state["weights"], strict=True):
                for mine, its in zip(pair, saved, strict=True):
                    mine.copy_(its)
        optimizer.load_state_dict(state["optimizer"])
    except UNREADABLE as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {remedy}") from None
    return int(state["step"])
