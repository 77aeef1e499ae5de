"""Losses on mask logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalized_focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, alpha: float = 0.5, gamma: float = 2.0
) -> Tensor:
    """Focal loss whose pixel weights are rescaled to sum to the pixel count, so that an almost
    finished mask still teaches (Sofiiuk et al., AdaptIS, 2019, and RITM, arXiv 2102.06583).

    Args:
        logits, target, weight: ``[B, 1, H, W]``; target 0 or 1; weight 0 where unknown, else above.

    Returns:
        Mean loss, a scalar.
    """
    p = logits.sigmoid()
    truth = torch.where(target > 0.5, p, 1 - p)
    share = torch.where(target > 0.5, alpha, 1 - alpha)
    beta = (1 - truth) ** gamma * weight
    dims = (1, 2, 3)
    # The scale is a constant of the step: it must not be trained to be large.
    scale = (weight.sum(dims) / beta.sum(dims).clamp_min(1e-6)).detach().clamp_max(1e4)
    nll = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    per_item = (share * beta * nll).sum(dims) * scale / weight.sum(dims).clamp_min(1)
    return per_item.mean()


def soft_iou_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """One minus the IoU of probabilities with the target, in [0, 1]: pixels count by their weight;
    shapes as in ``normalized_focal_loss``."""
    p, both = logits.sigmoid(), logits.sigmoid() * target
    inter = (both * weight).sum((1, 2, 3))
    union = ((p + target - both) * weight).sum((1, 2, 3))
    return (1 - (inter + 1) / (union + 1)).mean()


def edge_band(target: Tensor, reach: int = 2) -> Tensor:
    """1 within ``reach`` pixels of the edge of ``target`` (``[B, 1, H, W]``, 0 or 1), else 0."""
    side = 2 * reach + 1
    grown = F.max_pool2d(target, side, 1, reach)
    shrunk = -F.max_pool2d(-target, side, 1, reach)
    return grown - shrunk
