"""The gate decides whether a candidate may replace the serving version. Pure functions on curves.

Both versions answer the same simulated clicks on the same accepted hold-out regions. The rule:

1. There must be at least ``min_regions`` hold-out regions, on ``MIN_IMAGES`` images or more. With
   fewer, the candidate is refused.
2. The point estimate of the main figure, mean IoU after 3 clicks, must be better.
3. The lower end of the main figure's 90 % interval, from a paired bootstrap over images, may not be
   worse by more than ``MARGIN``: the gain must not be only luck.
4. No other figure (NoC@85, NoC@90, 1-mIoU, 5-mIoU, boundary IoU after 3 clicks) may be worse
   beyond doubt, that is with its whole 90 % interval on the worse side.

The bootstrap resamples images and not regions: regions of one image are similarly difficult, and
counting them as independent would make every interval too narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model.evaluation.curves import clicks_to_reach

Floats = npt.NDArray[np.float64]

MAIN = "miou3"
MARGIN = 0.02  # IoU that the main figure may lose at the low end of its interval
MIN_IMAGES = 2  # all resamples of a single image are equal, so its interval has no width
DRAWS = 2000  # bootstrap resamples
INTERVAL = (5.0, 95.0)  # percentiles


@dataclass(frozen=True)
class Answers:
    """The answers of one version on the hold-out regions, in the same order for all versions.

    Attributes:
        curves: float [n, clicks], IoU after each simulated click; clicks >= 5.
        boundary: float [n], boundary IoU of the mask after 3 clicks.
    """

    curves: Floats
    boundary: Floats


@dataclass(frozen=True)
class Interval:
    """Candidate minus serving with its 90 % bounds; the sign is set so that more is better."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Verdict:
    """The decision, its reason as a sentence, and every number behind it (fit for JSON)."""

    promote: bool
    reason: str
    metrics: dict[str, Any]


class Figure(NamedTuple):
    """A figure of the gate: its value per region, and whether more of it is better."""

    name: str
    title: str
    per_region: Callable[[Answers], Floats]
    more_is_better: bool


def _clicks(answers: Answers, target: float) -> Floats:
    return clicks_to_reach(answers.curves, target).astype(np.float64)


FIGURES = (
    Figure("noc85", "NoC@85", lambda answers: _clicks(answers, 0.85), False),
    Figure("noc90", "NoC@90", lambda answers: _clicks(answers, 0.90), False),
    Figure("miou1", "1-mIoU", lambda answers: answers.curves[:, 0], True),
    Figure("miou3", "3-mIoU", lambda answers: answers.curves[:, 2], True),
    Figure("miou5", "5-mIoU", lambda answers: answers.curves[:, 4], True),
    Figure("boundary3", "boundary IoU after 3 clicks", lambda answers: answers.boundary, True),
)


def figures(answers: Answers) -> dict[str, float]:
    """Mean of every figure over the regions."""
    return {figure.name: float(figure.per_region(answers).mean()) for figure in FIGURES}


def paired_bootstrap(
    differences: Floats, images: npt.NDArray[np.int64], *, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """Mean difference and its interval, by the percentile bootstrap over whole images.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        differences: float [n], one per region.
        images: int [n], the image each region lies on.
    """
    _, place = np.unique(images, return_inverse=True)
    sums = np.bincount(place, weights=differences)
    sizes = np.bincount(place).astype(np.float64)
    count = len(sums)
    drawn = np.random.default_rng(seed).integers(count, size=(draws, count))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, INTERVAL)
    return Interval(float(differences.mean()), float(low), float(high))


def decide(
    candidate: Answers,
    serving: Answers,
    images: npt.NDArray[np.int64],
    *,
    min_regions: int,
    seed: int = 0,
) -> Verdict:
    """Judge ``candidate`` against ``serving`` by the rule at the top of this file.

    Args:
        images: int [n], the image of each hold-out region, in the order of both answers.
        min_regions: fewer hold-out regions than this promote nothing.
    """
    count, n_images = len(images), len(np.unique(images))
    metrics: dict[str, Any] = {"regions": count, "images": n_images, "main": MAIN}
    if count:
        metrics |= {"candidate": figures(candidate), "serving": figures(serving)}
    if count < min_regions:
        return Verdict(
            False,
            f"Refused: {count} accepted hold-out region{'s' * (count != 1)}, and a verdict needs "
            f"at least {min_regions}; label more images.",
            metrics,
        )
    if n_images < MIN_IMAGES:
        return Verdict(
            False,
            f"Refused: all {count} accepted hold-out regions lie on one image, and a verdict needs "
            f"at least {MIN_IMAGES}; label more images.",
            metrics,
        )
    intervals = {
        figure.name: paired_bootstrap(
            (figure.per_region(candidate) - figure.per_region(serving))
            * (1.0 if figure.more_is_better else -1.0),
            images,
            seed=seed,
        )
        for figure in FIGURES
    }
    metrics["bootstrap"] = {name: asdict(interval) for name, interval in intervals.items()}
    fault = _fault(intervals)
    values = f"{metrics['serving'][MAIN]:.3f} to {metrics['candidate'][MAIN]:.3f}"
    if fault is not None:
        return Verdict(False, f"Refused: {fault} (3-mIoU from {values}).", metrics)
    main = intervals[MAIN]
    return Verdict(
        True,
        f"Promoted: 3-mIoU from {values} on {count} hold-out regions "
        f"(90 % interval of the gain {main.low:+.3f} to {main.high:+.3f}).",
        metrics,
    )


def _fault(intervals: dict[str, Interval]) -> str | None:
    """Why the candidate may not serve, or None."""
    main = intervals[MAIN]
    if main.difference <= 0:
        return f"3-mIoU is not better than the serving model's (by {main.difference:+.3f})"
    if main.low < -MARGIN:
        return (
            f"the gain of {main.difference:+.3f} in 3-mIoU may be luck "
            f"(90 % interval {main.low:+.3f} to {main.high:+.3f})"
        )
    for figure in FIGURES:
        interval = intervals[figure.name]
        if interval.high < 0:
            change = interval.difference * (1 if figure.more_is_better else -1)
            return f"{figure.title} got worse beyond doubt (by {change:+.3f})"
    return None
