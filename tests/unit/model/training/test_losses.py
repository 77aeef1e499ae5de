"""The losses fall as masks get better, and unknown pixels do not count."""

from __future__ import annotations

import pytest
import torch

from model.training.losses import edge_band, normalized_focal_loss, soft_iou_loss

TARGET = torch.zeros(2, 1, 16, 16)
TARGET[:, :, 4:12, 4:12] = 1
EVERYWHERE = torch.ones_like(TARGET)


@pytest.mark.parametrize("loss", [normalized_focal_loss, soft_iou_loss])
def test_better_logits_cost_less(loss):
    values = [float(loss((TARGET * 2 - 1) * s, TARGET, EVERYWHERE)) for s in (-4, 0, 1, 4)]
    assert values == sorted(values, reverse=True) and values[-1] < 0.2


@pytest.mark.parametrize("loss", [normalized_focal_loss, soft_iou_loss])
def test_unknown_pixels_change_neither_value_nor_gradient(loss):
    weight = EVERYWHERE.clone()
    weight[..., :3] = 0
    results = []
    for noise in (0.0, 50.0):
        logits = (TARGET - 0.3).clone()
        logits[..., :3] += noise
        logits.requires_grad_()
        value = loss(logits, TARGET, weight)
        value.backward()
        assert bool((logits.grad[..., :3] == 0).all())
        results.append(float(value.detach()))
    assert results[0] == pytest.approx(results[1])


def test_the_focal_scale_carries_no_gradient():
    # With the scale held constant the gradient keeps the sign of plain cross-entropy.
    logits = torch.zeros_like(TARGET, requires_grad=True)
    normalized_focal_loss(logits, TARGET, EVERYWHERE).backward()
    assert bool((logits.grad[TARGET == 1] < 0).all())
    assert bool((logits.grad[TARGET == 0] > 0).all())


def test_the_iou_of_a_perfect_mask_costs_nothing_however_its_pixels_count():
    weight = EVERYWHERE + 3 * edge_band(TARGET)
    logits = (TARGET * 2 - 1) * 30
    assert float(soft_iou_loss(logits, TARGET, weight)) == pytest.approx(0, abs=1e-6)
    assert 0.9 < float(soft_iou_loss(-logits, TARGET, weight)) < 1
