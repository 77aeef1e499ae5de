"""What the trainings share: the learning rate over time, clipped gradients, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MAX_GRADIENT_NORM = 1.0  # longer gradients are scaled down to this length
WARMUP_SHARE = 0.1  # of a short training's steps, in which the rate rises
LEAST_RATE = 0.02  # where a short training's rate ends, as a share of its peak
LEAST_COSINE = 0.01  # below this share of the peak a long run's rate does not fall
# The averaged weights follow the learning ones quickly at first: after step s (from 0) they keep
# at most (s + 1) / (s + AVERAGING_DELAY) of what they were.
AVERAGING_DELAY = 10


def schedule(step: int, steps: int) -> float:
    """The learning rate of a step (from 0) of a short training, as a share of the peak.

    It rises linearly over a tenth of the steps, then falls along a cosine.
    """
    rise = min(1.0, (step + 1) / max(int(steps * WARMUP_SHARE), 1))
    return rise * (LEAST_RATE + (1 - LEAST_RATE) * _cosine(step, steps))


def long_schedule(step: int, steps: int, warmup: int) -> float:
    """The same for a long run, which rises over ``warmup`` steps."""
    rise = min(1.0, (step + 1) / max(warmup, 1))
    return rise * max(_cosine(step, steps), LEAST_COSINE)


def _cosine(step: int, steps: int) -> float:
    """Falls from 1 at step 0 to 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def clip_gradients(parameters: Iterable[nn.Parameter | Tensor]) -> None:
    """Scale the gradients, in place, so that together they are at most ``MAX_GRADIENT_NORM``."""
    nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)


@torch.no_grad()
def follow(pairs: Iterable[tuple[Tensor, Tensor]], ema: float, step: int) -> None:
    """Move averaged weights towards the learning ones, in place.

    Args:
        pairs: averaged and learning weights, of equal shapes.
        ema: share of the averaged weights that is kept, once the training is well under way.
        step: the step that was just taken, from 0.
    """
    kept = min(ema, (step + 1) / (step + AVERAGING_DELAY))
    for slow, fast in pairs:
        slow.lerp_(fast, 1 - kept)
