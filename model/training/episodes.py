"""One training episode: first prompts, fed-back clicks without gradient, the step that learns.

SegNext's recipe (arXiv 2404.00741, after RITM, arXiv 2102.06583): 0 to 3 iterative clicks, each
put where the current mask is wrong, the predicted mask fed back, gradients only through the last
pass. All kinds of prompts are mixed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.evaluation.simulation import (
    depth,
    rough_mask,
    training_box,
    training_click,
    training_negative,
    training_outline,
    training_strokes,
)
from model.network.prompts import Click, Prompt
from model.network.rasterise import prompt_map
from model.network.segnext import SegNext
from model.training.losses import edge_band, normalized_focal_loss, soft_iou_loss

MAX_FED_BACK = 3
# How often a target starts from each kind of prompt.
KINDS: Mapping[str, float] = {
    "click": 0.5,
    "box": 0.15,
    "polygon": 0.12,
    "scribble": 0.15,
    "mask": 0.08,
}
CENTRE_SHARE = 0.5  # of first clicks that are the deepest pixel, as in the evaluation
NEGATIVE_SHARE = 0.25  # of targets that come with a negative click at once
HALF = 2  # errors are looked for and scored at half resolution: full size costs as much as decoding


def first_prompt(
    target: npt.NDArray[np.bool_],
    others: npt.NDArray[np.bool_],
    rng: np.random.Generator,
    kinds: Mapping[str, float] = KINDS,
) -> Prompt:
    """What is said first about a non-empty ``target`` (bool ``[H, W]``): of one kind by the shares
    of ``kinds``, now and then with a negative click, often on one of the ``others``."""
    small, others = target[::HALF, ::HALF], others[::HALF, ::HALF]
    if not small.any():  # thinner than the half-resolution grid
        rows, cols = np.nonzero(target)
        return Prompt((Click(float(rows[0] // HALF), float(cols[0] // HALF)),))
    shares = np.array(list(kinds.values()), np.float64)
    kind = str(rng.choice(list(kinds), p=shares / shares.sum()))
    if kind == "click":
        prompt = Prompt((_first_click(small, rng),))
    elif kind == "box":
        prompt = Prompt(boxes=(training_box(small, rng),))
    elif kind == "polygon":
        prompt = Prompt(polygons=training_outline(small, rng))
    elif kind == "scribble":
        prompt = Prompt(scribbles=training_strokes(small, rng))
    else:
        prompt = Prompt(mask=rough_mask(small, rng))
    if rng.random() < NEGATIVE_SHARE:
        negative = training_negative(small, others, rng)
        if negative is not None:
            prompt = replace(prompt, clicks=(*prompt.clicks, negative))
    return prompt


def _first_click(target: npt.NDArray[np.bool_], rng: np.random.Generator) -> Click:
    inner = depth(target)
    if rng.random() < CENTRE_SHARE:
        flat = int(inner.argmax())
    else:
        flat = int(rng.choice(np.flatnonzero(inner >= min(2.0, float(inner.max()) / 2))))
    row, col = np.unravel_index(flat, inner.shape)
    return Click(float(row), float(col))


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
    """Prompt each target as an annotator would and score the last answer.

    Args:
        model: decodes; its gradients flow through the last pass only.
        features: ``[B, C, H/16, W/16]``, one row a target.
        skips: the finer maps, batched alike.
        targets: bool ``[B, H, W]``, none empty.
        known: bool ``[B, H, W]``, pixels that count.
        others: bool ``[B, H, W]``, pixels of objects that are not the target.
        rng: the only source of chance.
        edge: by how much pixels near the target's edge count more.
        kinds: shares of the kinds of first prompts.

    Returns:
        Scalar loss.
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
    """Correct the answers to given first prompts as an annotator would and score the last answer.

    Args:
        targets: as in ``episode_loss``, but may be empty: then nothing is meant.
        first: what is said first about each target, in pixels of every ``HALF``-th row and column.

    Returns:
        Scalar loss.
    """
    # Everything is said in half-resolution pixels; the maps are drawn at full resolution.
    prompts, text = list(first), model.text_vectors(first)
    size = (targets.shape[1], targets.shape[2])
    half = (-(-size[0] // HALF), -(-size[1] // HALF))
    device = features.device
    previous: Tensor | None = None
    for _ in range(int(rng.integers(MAX_FED_BACK + 1))):
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
    maps = torch.stack([prompt_map(prompt, half, size, radius) for prompt in prompts])
    if previous is not None:
        maps[:, 0] = previous[:, 0].cpu()
    return maps


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=True)
