"""Fine-tunes everything but the image encoder, on stored embeddings alone.

This takes minutes instead of hours, and stored embeddings stay valid.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from model.errors import DatasetError
from model.masks import Mask, resized_by_area
from model.network.embedding import Embedding, stack
from model.network.segnext import SegNext
from model.progress import Progress, silent
from model.training.chance import seeded, step_seed
from model.training.episodes import episode_loss
from model.training.optimisation import clip_gradients, follow, schedule

Sample = tuple[Embedding, Mask]


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
) -> SegNext:
    """Train a copy of ``model`` on accepted masks.

    The same model, samples and config give the same weights on one machine. The caller's PyTorch
    random state is left as it was.

    Args:
        model: the base; left as it is.
        samples: an image's embedding and one accepted mask, bool ``[H, W]`` at the original size.
        config: how to train.
        progress: called after each step.

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
    for step in range(config.steps):
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
        progress(step + 1, config.steps)
    for parameter in average.parameters():
        parameter.requires_grad_(True)
    return average


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
