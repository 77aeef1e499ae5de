"""The score of a mask is a calibrated estimate of its IoU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.network.confidence import (
    calibration_error,
    fit,
    rank_correlation,
    score,
    soft_iou,
    statistics,
)
from model.network.config import N_CONFIDENCE


def _disk(sharpness, radius=20, size=64):
    rows, cols = np.indices((size, size)) - size // 2
    return torch.from_numpy((radius - np.hypot(rows, cols)) * sharpness).sigmoid()


def test_soft_iou_of_certain_uncertain_and_empty_masks():
    assert soft_iou(_disk(50), 0.5) > 0.99 > soft_iou(_disk(0.3), 0.5) > 0.5
    assert soft_iou(torch.zeros(8, 8), 0.5) == 0


def test_an_empty_mask_scores_nothing_and_without_weights_the_soft_iou_counts():
    weights = (0.1,) * (N_CONFIDENCE - 1) + (3.0,)
    assert score(torch.zeros(8, 8), 0.5, weights) == 0
    assert score(_disk(1), 0.5, ()) == soft_iou(_disk(1), 0.5)
    assert 0 < score(_disk(1), 0.5, weights) < 1


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_statistics_are_finite_whatever_the_answer(value):
    for size in ((1, 1), (64, 96)):
        found = statistics(torch.full(size, value), 0.49)
        assert len(found) == N_CONFIDENCE and np.isfinite(found).all()


def test_fitted_scores_are_near_the_true_iou():
    rng = np.random.default_rng(0)
    sharpness = rng.uniform(0.1, 2.0, 600)
    answers = [_disk(s, rng.uniform(5, 25)) for s in sharpness]
    true = np.clip(0.2 + 0.35 * sharpness + rng.normal(0, 0.05, 600), 0, 1)
    weights = fit(np.array([statistics(a, 0.5) for a in answers[:300]]), true[:300])
    held = np.array([score(a, 0.5, weights) for a in answers[300:]])
    plain = np.array([soft_iou(a, 0.5) for a in answers[300:]])
    assert calibration_error(held, true[300:]) < 0.05
    assert calibration_error(held, true[300:]) < calibration_error(plain, true[300:]) / 2
    assert rank_correlation(held, true[300:]) > 0.9


def test_calibration_error_by_hand():
    scores, true = np.array([0.95, 0.95, 0.15, 0.15]), np.array([0.75, 0.95, 0.15, 0.35])
    assert calibration_error(scores, true) == pytest.approx(0.1)
    assert calibration_error(np.array([1.0]), np.array([1.0])) == 0
    assert calibration_error(np.array([]), np.array([])) == 0


def test_rank_correlation_looks_at_the_order_alone():
    assert rank_correlation(np.array([0.1, 0.2, 0.9]), np.array([0.5, 0.6, 0.61])) == 1
    assert rank_correlation(np.array([0.5, 0.5]), np.array([0.1, 0.9])) == 0
