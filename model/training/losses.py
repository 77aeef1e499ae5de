"""Losses on mask logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6  # keeps a division by an empty sum finite
LARGEST_SCALE = 1e4  # of the focal loss: a mask without an error must not count without bound


def normalized_focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor, alpha: float = 0.5, gamma: float = 2.0
) -> Tensor:
    """Focal loss whose pixel weights are rescaled to sum to the pixel count, so that an almost
    finished mask still teaches (Sofiiuk et al., AdaptIS, 2019, and RITM, arXiv 2102.06583).

    Args:
        logits: ``[B, 1, H, W]``.
        target: ``[B, 1, H, W]``, 0 or 1.
        weight: ``[B, 1, H, W]``, how much each pixel counts: 0 where the object is not known, else
            above 0.
        alpha: share of the loss for pixels of the object.
        gamma: the larger, the less pixels that are already right count.

    Returns:
        The mean loss, a scalar.
    """
    p = logits.sigmoid()
    truth = torch.where(target > 0.5, p, 1 - p)
    share = torch.where(target > 0.5, alpha, 1 - alpha)
    beta = (1 - truth) ** gamma * weight
    dims = (1, 2, 3)
    # No gradient flows through the scale: training must not make it large.
    scale = (weight.sum(dims) / beta.sum(dims).clamp_min(EPSILON)).detach().clamp_max(LARGEST_SCALE)
    nll = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    per_item = (share * beta * nll).sum(dims) * scale / weight.sum(dims).clamp_min(1)
    return per_item.mean()


def soft_iou_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """One minus the IoU of the probabilities with the target, a scalar in [0, 1].

    Pixels count by their weight. All three are ``[B, 1, H, W]``, as in ``normalized_focal_loss``.
    """
    p, both = logits.sigmoid(), logits.sigmoid() * target
    inter = (both * weight).sum((1, 2, 3))
    union = ((p + target - both) * weight).sum((1, 2, 3))
    return (1 - (inter + 1) / (union + 1)).mean()  # one pixel more keeps it finite when both are 0


def edge_band(target: Tensor, reach: int = 2) -> Tensor:
    """1 within ``reach`` pixels of the edge of ``target``, else 0; both are ``[B, 1, H, W]``."""
    side = 2 * reach + 1
    grown = F.max_pool2d(target, side, 1, reach)
    shrunk = -F.max_pool2d(-target, side, 1, reach)
    return grown - shrunk
