"""One training episode: first prompts, fed-back clicks without gradient, the step that learns.

SegNext's recipe (arXiv 2404.00741, after RITM, arXiv 2102.06583): 0 to 3 iterative clicks, each
put where the current mask is wrong, the predicted mask fed back, gradients only through the last
pass. Boxes are mixed in.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.losses import normalized_focal_loss, soft_iou_loss
from model.prompts import Click, Prompt
from model.rasterise import prompt_map
from model.segnext import SegNext
from model.simulation import depth, training_box, training_click

MAX_FED_BACK = 3
BOX_SHARE = 0.2  # of targets that start from a box instead of a click
CENTRE_SHARE = 0.5  # of first clicks that are the deepest pixel, as in the evaluation
HALF = 2  # errors are looked for and scored at half resolution: full size costs as much as decoding


def first_prompt(target: npt.NDArray[np.bool_], rng: np.random.Generator) -> Prompt:
    """A click inside a non-empty ``target`` (bool ``[H, W]``), a few, or a box around it."""
    if rng.random() < BOX_SHARE:
        return Prompt(boxes=(training_box(target, rng),))
    inner = depth(target[::HALF, ::HALF])
    if inner.max() <= 0:  # thinner than the half-resolution grid
        rows, cols = np.nonzero(target)
        return Prompt((Click(float(rows[0]), float(cols[0])),))
    if rng.random() < CENTRE_SHARE:
        flat = int(inner.argmax())
    else:
        flat = int(rng.choice(np.flatnonzero(inner > min(2.0, float(inner.max()) / 2))))
    row, col = np.unravel_index(flat, inner.shape)
    return Prompt((Click(float(row * HALF), float(col * HALF)),))


def episode_loss(
    model: SegNext,
    features: Tensor,
    skips: tuple[Tensor, ...],
    targets: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> Tensor:
    """Prompt each target as an annotator would and score the last answer.

    Args:
        model: decodes; its gradients flow through the last pass only.
        features: ``[B, C, H/16, W/16]``, one row a target.
        skips: the finer maps, batched alike.
        targets: bool ``[B, H, W]``, none empty.
        known: bool ``[B, H, W]``, pixels that count.
        rng: the only source of chance.

    Returns:
        Scalar loss.
    """
    size = (targets.shape[1], targets.shape[2])
    device = features.device
    prompts = [first_prompt(target, rng) for target in targets]
    previous: Tensor | None = None
    for _ in range(int(rng.integers(MAX_FED_BACK + 1))):
        with torch.no_grad():
            maps = _maps(prompts, previous, size, model.config.radius).to(device)
            logits = model(features.detach(), tuple(s.detach() for s in skips), maps)
            previous = _upsample(logits, size).sigmoid()
        masks = (previous[:, 0, ::HALF, ::HALF] > model.config.threshold).cpu().numpy()
        for i, (target, valid, mask) in enumerate(zip(targets, known, masks, strict=True)):
            seen = valid[::HALF, ::HALF]
            click = training_click(target[::HALF, ::HALF] & seen, mask & seen, rng)
            if click is not None:
                placed = Click(click.row * HALF, click.col * HALF, click.positive)
                prompts[i] = Prompt((*prompts[i].clicks, placed), prompts[i].boxes)
    maps = _maps(prompts, previous, size, model.config.radius).to(device)
    half = (size[0] // HALF, size[1] // HALF)
    logits = _upsample(model(features, skips, maps), half)
    truth = torch.from_numpy(targets[:, None, ::HALF, ::HALF]).to(logits)
    weight = torch.from_numpy(known[:, None, ::HALF, ::HALF]).to(logits)
    return normalized_focal_loss(logits, truth, weight) + soft_iou_loss(logits, truth, weight)


def _maps(
    prompts: list[Prompt], previous: Tensor | None, size: tuple[int, int], radius: int
) -> Tensor:
    maps = torch.stack([prompt_map(prompt, size, size, radius) for prompt in prompts])
    if previous is not None:
        maps[:, 0] = previous[:, 0].cpu()
    return maps


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=True)
