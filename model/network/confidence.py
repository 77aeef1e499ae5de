"""How good a mask is, estimated without knowing the object: the score of a prediction.

Five statistics of the answer's probabilities go through one logistic function whose six numbers
are fitted on simulated prompts and travel with the weights (``SegNextConfig.confidence``); a
fine-tune keeps those of its base.
What is estimated is the IoU of the mask with what the annotator means.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import Tensor

Array = npt.NDArray[np.float64]

BINS = 10


def soft_iou(probability: Tensor, threshold: float) -> float:
    """IoU of a mask with its own probabilities (``[h, w]`` in [0, 1]); 0 for an empty mask."""
    inside = probability > threshold
    union = torch.where(inside, torch.ones_like(probability), probability).sum()
    return float(probability[inside].sum() / union.clamp_min(1e-6))


def statistics(probability: Tensor, threshold: float) -> list[float]:
    """What the estimate is made of, and a 1 for the constant.

    Args:
        probability: ``[h, w]`` in [0, 1].
        threshold: probability above which a pixel belongs to the mask.
    """
    size = probability.numel()
    inside = int((probability > threshold).sum())
    sure = int((probability > 0.5 + 0.3).sum())
    possible = int((probability > 0.5 - 0.3).sum())
    peak = float(probability.max())
    return [
        _log_odds(soft_iou(probability, threshold)),
        _log_odds(sure / possible if possible else 0.0),  # how little the mask hangs on the cut
        _log_odds(peak),
        float(np.log2(1 + inside)),  # of few cells, each weighs much
        inside / size,
        1.0,
    ]


def score(probability: Tensor, threshold: float, weights: tuple[float, ...]) -> float:
    """The estimated IoU, in [0, 1]; 0 for an empty mask; ``soft_iou`` where there are no weights.

    Args:
        probability, threshold: as in ``statistics``.
        weights: from ``fit``; or none.
    """
    if not weights or not bool((probability > threshold).any()):
        return soft_iou(probability, threshold)
    total = float(np.dot(statistics(probability, threshold), weights))
    return float(1 / (1 + np.exp(-total)))


def fit(measured: Array, ious: Array) -> tuple[float, ...]:
    """The weights under which the estimates fit best (cross entropy, a little ridge).

    Args:
        measured: ``[n, 6]``, rows of ``statistics``.
        ious: ``[n]`` in [0, 1], the true IoU of each answer.
    """

    def cost(weights: Array) -> tuple[float, Array]:
        total = measured @ weights
        error = 1 / (1 + np.exp(-total)) - ious
        loss = float(np.mean(np.logaddexp(0, total) - ious * total) + 1e-3 * weights @ weights)
        return loss, measured.T @ error / len(ious) + 2e-3 * weights

    found = minimize(cost, np.zeros(measured.shape[1]), jac=True, method="L-BFGS-B")
    return tuple(round(float(weight), 5) for weight in found.x)


def calibration_error(scores: Array, ious: Array) -> float:
    """Expected calibration error of ``[n]`` scores: the mean distance of score and true IoU over
    ``BINS`` equal steps of the score, weighted by how many fall in each."""
    steps = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = [
        abs(float(scores[steps == step].mean() - ious[steps == step].mean()))
        * np.count_nonzero(steps == step)
        for step in range(BINS)
        if (steps == step).any()
    ]
    return float(sum(gaps) / len(scores)) if len(scores) else 0.0


def rank_correlation(scores: Array, ious: Array) -> float:
    """Spearman's rank correlation of ``[n]`` scores with the true IoU; 0 where either is
    constant."""
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(ious) == 0:
        return 0.0
    return float(spearmanr(scores, ious).statistic)


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-4), 1 - 1e-4)
    return float(np.log(share / (1 - share)))
