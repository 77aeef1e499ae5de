"""One training episode: first prompts, corrections without gradient, then the pass that learns.

SegNext's recipe (arXiv 2404.00741, after RITM, arXiv 2102.06583): 0 to 3 further clicks, each where
the current mask is wrong; the predicted mask is fed back; gradients flow only through the last
pass. First prompts of all kinds are mixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.evaluation.simulation import training_click
from model.network.prompts import Prompt
from model.network.rasterise import prompt_map
from model.network.segnext import SegNext
from model.training.first_prompts import HALF, KINDS, first_prompt
from model.training.losses import edge_band, normalized_focal_loss, soft_iou_loss

MAX_CORRECTIONS = 3  # clicks after the first prompt; how many is drawn, from 0


def episode_loss(
    model: SegNext,
    features: Tensor,
    skips: tuple[Tensor, ...],
    targets: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    others: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    edge: float = 0.0,
    kinds: Mapping[str, float] = KINDS,
) -> Tensor:
    """Prompt each target as an annotator would, and score the last answer.

    Args:
        model: decodes; its gradients flow through the last pass only.
        features: ``[B, C, H/16, W/16]``, one row for each target.
        skips: the finer maps ``[B, 24, H/4, W/4]`` and ``[B, 32, H/8, W/8]``; empty for the ViT.
        targets: bool ``[B, H, W]``, none empty.
        known: bool ``[B, H, W]``, pixels that count.
        others: bool ``[B, H, W]``, pixels of objects that are not the target.
        rng: the only source of chance, except for dropout.
        edge: how much more pixels near the target's edge count; 0: no more than others.
        kinds: shares of the kinds of first prompts.

    Returns:
        The loss, a scalar.
    """
    prompts = [
        first_prompt(each, other, rng, kinds) for each, other in zip(targets, others, strict=True)
    ]
    return corrected_loss(model, features, skips, targets, known, prompts, rng, edge)


def corrected_loss(
    model: SegNext,
    features: Tensor,
    skips: tuple[Tensor, ...],
    targets: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    first: Sequence[Prompt],
    rng: np.random.Generator,
    edge: float = 0.0,
) -> Tensor:
    """Correct the answers to given first prompts as an annotator would, and score the last answer.

    Args:
        model, features, skips, known, rng, edge: as in ``episode_loss``.
        targets: bool ``[B, H, W]``; an empty one says that the prompt means nothing in the image.
        first: the first prompt for each target, in pixels of every ``HALF``-th row and column.

    Returns:
        The loss, a scalar.
    """
    # Prompts are in half-resolution pixels; the maps are drawn at full resolution.
    prompts, text = list(first), model.text_vectors(first)
    size = (targets.shape[1], targets.shape[2])
    half = (-(-size[0] // HALF), -(-size[1] // HALF))
    device = features.device
    previous: Tensor | None = None
    for _ in range(int(rng.integers(MAX_CORRECTIONS + 1))):
        with torch.no_grad():
            maps = _maps(prompts, previous, half, size, model.config.radius).to(device)
            logits = model(features.detach(), tuple(s.detach() for s in skips), maps, text)
            previous = _upsample(logits, size).sigmoid()
        masks = (previous[:, 0, ::HALF, ::HALF] > model.config.threshold).cpu().numpy()
        for i, (target, valid, mask) in enumerate(zip(targets, known, masks, strict=True)):
            seen = valid[::HALF, ::HALF]
            click = training_click(target[::HALF, ::HALF] & seen, mask & seen, rng)
            if click is not None:
                prompts[i] = replace(prompts[i], clicks=(*prompts[i].clicks, click))
    maps = _maps(prompts, previous, half, size, model.config.radius).to(device)
    logits = _upsample(model(features, skips, maps, text), half)
    truth = torch.from_numpy(targets[:, None, ::HALF, ::HALF]).to(logits)
    weight = torch.from_numpy(known[:, None, ::HALF, ::HALF]).to(logits)
    if edge:
        weight = weight * (1 + edge * edge_band(truth))
    return normalized_focal_loss(logits, truth, weight) + soft_iou_loss(logits, truth, weight)


def _maps(
    prompts: list[Prompt],
    previous: Tensor | None,
    half: tuple[int, int],
    size: tuple[int, int],
    radius: int,
) -> Tensor:
    """The network's prompt maps, float32 ``[B, 3, *size]`` on the CPU.

    Args:
        prompts: B prompts, in pixels of an image of the size ``half``.
        previous: probabilities ``[B, 1, *size]`` to feed back; None: the prompts' own masks.
        half, size: (height, width) of the prompts' image and of the maps.
        radius: of a click's disk, in pixels of the maps.
    """
    maps = torch.stack([prompt_map(prompt, half, size, radius) for prompt in prompts])
    if previous is not None:
        maps[:, 0] = previous[:, 0].cpu()
    return maps


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B, 1, h, w]`` -> float32 ``[B, 1, *size]``."""
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=True)
