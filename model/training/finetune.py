"""Fine-tunes everything but the image encoder, on stored embeddings alone.

This takes minutes instead of hours, and stored embeddings stay valid.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from model.errors import DatasetError
from model.files import replacing
from model.masks import Mask, resized_by_area
from model.network.embedding import Embedding, stack
from model.network.segnext import SegNext
from model.progress import Progress, silent
from model.training.chance import seeded, step_seed
from model.training.episodes import episode_loss
from model.training.optimisation import clip_gradients, follow, schedule

log = logging.getLogger(__name__)

Sample = tuple[Embedding, Mask]

SAVE_SECONDS = 20.0  # between two saved states


@dataclass(frozen=True)
class FineTuneConfig:
    """One fine-tune.

    Attributes:
        steps: optimiser steps.
        batch: samples drawn for one step.
        learning_rate: peak; warms up over a tenth of the steps, then falls along a cosine.
        weight_decay: of AdamW.
        ema: decay of the averaged weights, which are the ones returned.
        seed: 0 or more; decides which samples are drawn, the simulated prompts, and the dropout.
    """

    steps: int = 300
    batch: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    ema: float = 0.98
    seed: int = 0


def finetune(
    model: SegNext,
    samples: Sequence[Sample],
    config: FineTuneConfig,
    progress: Progress = silent,
    *,
    state: Path | None = None,
) -> SegNext:
    """Train a copy of ``model`` on accepted masks.

    The same model, samples and config give the same weights on one machine, also where a run was
    killed and went on from ``state``. The caller's PyTorch random state is left as it was.

    Args:
        model: the base; left as it is.
        samples: an image's embedding and one accepted mask, bool ``[H, W]`` at the original size.
        config: how to train.
        progress: called after each step.
        state: a file in which the state of the run is kept while it lasts; a later call with the
            same model, samples and config goes on from it. One of another run is not used.

    Returns:
        A new network in evaluation mode with the same encoder, bit for bit.

    Raises:
        DatasetError: there is no sample, or no mask is left at the network's resolution.
    """
    targets = [_at_input_size(model, embedding, mask) for embedding, mask in samples]
    usable = [i for i, target in enumerate(targets) if target.any()]
    if not usable:
        raise DatasetError("There is no accepted mask to learn from; accept some and try again.")
    tuned = copy.deepcopy(model)
    tuned.forget_fingerprint()
    for parameter in tuned.backbone.parameters():
        parameter.requires_grad_(False)
    average = copy.deepcopy(tuned).eval()
    parameters = tuned.decoder_parameters()
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay
    )
    rng = np.random.default_rng(config.seed)
    tuned.train()
    run = _name_of(model, targets, config)
    start = _resume(state, run, tuned, average, optimizer, rng) if state else 0
    saved = time.monotonic()
    for step in range(start, config.steps):
        for options in optimizer.param_groups:
            options["lr"] = config.learning_rate * schedule(step, config.steps)
        chosen = rng.choice(usable, config.batch, replace=len(usable) < config.batch)
        optimizer.zero_grad(set_to_none=True)
        # Images of different shapes cannot be stacked: each shape is one part of the step.
        shapes: dict[tuple[int, ...], list[Sample]] = {}
        for i in chosen.tolist():
            embedding = samples[i][0]  # read once: it may come from a store
            group = shapes.setdefault(tuple(embedding.features.shape), [])
            group.append((embedding, targets[i]))
        with seeded(step_seed(config.seed, step), model.device):
            for drawn in shapes.values():
                (_loss(tuned, drawn, rng) * (len(drawn) / config.batch)).backward()
        clip_gradients(parameters)
        optimizer.step()
        follow(zip(average.decoder_parameters(), parameters, strict=True), config.ema, step)
        if state and time.monotonic() - saved >= SAVE_SECONDS:
            _save(state, run, step + 1, tuned, average, optimizer, rng)
            saved = time.monotonic()
        progress(step + 1, config.steps)
    if state:
        state.unlink(missing_ok=True)
    for parameter in average.parameters():
        parameter.requires_grad_(True)
    return average


def _name_of(model: SegNext, targets: Sequence[Mask], config: FineTuneConfig) -> str:
    """Identifies a run: what it starts from, what it learns, and how."""
    digest = hashlib.sha256(f"{model.encoder_fingerprint} {config}".encode())
    for parameter in model.decoder_parameters():
        digest.update(parameter.detach().cpu().numpy().tobytes())
    for target in targets:
        digest.update(repr(target.shape).encode() + np.packbits(target).tobytes())
    return digest.hexdigest()


def _save(
    path: Path,
    run: str,
    step: int,
    tuned: SegNext,
    average: SegNext,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    """Write the state before ``step``, so that a killed process loses little."""
    content = {
        "run": run,
        "step": step,
        "tuned": [parameter.detach().cpu() for parameter in tuned.decoder_parameters()],
        "average": [parameter.detach().cpu() for parameter in average.decoder_parameters()],
        "optimizer": optimizer.state_dict(),
        "rng": json.dumps(rng.bit_generator.state),
    }
    with replacing(path, private=True) as file:
        torch.save(content, file)


def _resume(
    path: Path,
    run: str,
    tuned: SegNext,
    average: SegNext,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> int:
    """Restore the state of ``run``; returns the step it goes on with, which is 0 without a state
    that fits."""
    try:
        content = torch.load(path, map_location=tuned.device, weights_only=True)
        if content["run"] != run:
            return 0
        with torch.no_grad():
            for network, name in ((tuned, "tuned"), (average, "average")):
                for own, kept in zip(network.decoder_parameters(), content[name], strict=True):
                    own.copy_(kept)
        optimizer.load_state_dict(content["optimizer"])
        rng.bit_generator.state = json.loads(content["rng"])
        return int(content["step"])
    except FileNotFoundError:
        return 0
    except Exception as error:  # A damaged file raises errors of many kinds.
        log.warning("The state in %s is not used, and the run starts again: %s", path, error)
        return 0


def _loss(model: SegNext, drawn: list[Sample], rng: np.random.Generator) -> torch.Tensor:
    """The episode loss, a scalar, of samples of one shape, their masks at the input size."""
    features, skips = stack([embedding for embedding, _ in drawn], model.device)
    masks = np.stack([mask for _, mask in drawn])  # [B, H, W]
    others = np.zeros_like(masks)  # where other objects are is not recorded here
    return episode_loss(model, features, skips, masks, np.ones_like(masks), others, rng)


def _at_input_size(model: SegNext, embedding: Embedding, mask: Mask) -> Mask:
    """The mask, bool ``[H, W]`` of the image, at the network's input size."""
    if mask.shape != embedding.image_size:
        raise DatasetError(
            f"A mask of {mask.shape} does not fit its image of {embedding.image_size}; "
            "take the snapshot again."
        )
    return resized_by_area(mask, model.input_size(embedding.image_size))
