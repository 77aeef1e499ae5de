"""The score of a prediction: an estimate of the mask's IoU with the object that is meant.

Five statistics of the answer's probabilities and a constant go through one logistic function. Its
six weights are fitted on simulated prompts and stored with the network
(``SegNextConfig.confidence``); a fine-tune keeps those of its base.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import Tensor

Array = npt.NDArray[np.float64]

BINS = 10  # of the calibration error
SURE, POSSIBLE = 0.8, 0.2  # probabilities above which a pixel surely, or possibly, belongs
LEAST_SHARE = 1e-4  # shares are kept this far from 0 and 1, so that their log odds are finite
RIDGE = 1e-3  # weight of the squared weights in the cost of a fit
DIGITS = 5  # decimal places that fitted weights are rounded to
EPSILON = 1e-6  # keeps a division by an empty sum finite


def soft_iou(probability: Tensor, threshold: float) -> float:
    """IoU of a mask with its own probabilities (``[h, w]`` in [0, 1]); 0 for an empty mask."""
    inside = probability > threshold
    union = torch.where(inside, torch.ones_like(probability), probability).sum()
    return float(probability[inside].sum() / union.clamp_min(EPSILON))


def statistics(probability: Tensor, threshold: float) -> list[float]:
    """The six numbers that the estimate is made of; the last is a constant 1.

    Args:
        probability: ``[h, w]`` in [0, 1].
        threshold: probability above which a pixel belongs to the mask.
    """
    size = probability.numel()
    inside = int((probability > threshold).sum())
    sure = int((probability > SURE).sum())
    possible = int((probability > POSSIBLE).sum())
    peak = float(probability.max())
    return [
        _log_odds(soft_iou(probability, threshold)),
        _log_odds(sure / possible if possible else 0.0),  # 1: no threshold changes the mask
        _log_odds(peak),
        float(np.log2(1 + inside)),  # in a mask of few cells each wrong one weighs much
        inside / size,
        1.0,
    ]


def score(probability: Tensor, threshold: float, weights: tuple[float, ...]) -> float:
    """The estimated IoU, in [0, 1]; 0 for an empty mask.

    Args:
        probability, threshold: as in ``statistics``.
        weights: from ``fit``; empty: the score is ``soft_iou``, which is not calibrated.
    """
    if not weights or not bool((probability > threshold).any()):
        return soft_iou(probability, threshold)
    total = float(np.dot(statistics(probability, threshold), weights))
    return float(1 / (1 + np.exp(-total)))


def fit(measured: Array, ious: Array) -> tuple[float, ...]:
    """The weights that fit best, by cross entropy with a small ridge penalty.

    Args:
        measured: ``[n, 6]``, rows of ``statistics``.
        ious: ``[n]`` in [0, 1], the true IoU of each answer.
    """

    def cost(weights: Array) -> tuple[float, Array]:
        total = measured @ weights
        error = 1 / (1 + np.exp(-total)) - ious
        loss = float(np.mean(np.logaddexp(0, total) - ious * total) + RIDGE * weights @ weights)
        return loss, measured.T @ error / len(ious) + 2 * RIDGE * weights

    found = minimize(cost, np.zeros(measured.shape[1]), jac=True, method="L-BFGS-B")
    return tuple(round(float(weight), DIGITS) for weight in found.x)


def calibration_error(scores: Array, ious: Array) -> float:
    """The expected calibration error of ``[n]`` scores in [0, 1].

    Scores are sorted into ``BINS`` equal steps. The result is the mean distance between the mean
    score and the mean true IoU of a step, weighted by how many scores are in it; 0 without scores.
    """
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
    share = min(max(share, LEAST_SHARE), 1 - LEAST_SHARE)
    return float(np.log(share / (1 - share)))
