from __future__ import annotations

import json

import numpy as np
import pytest

from model.evaluation.curves import clicks_to_reach
from pipeline.training.gate import Answers, decide, figures, paired_bootstrap


def answers(first: np.ndarray, boundary: np.ndarray | None = None) -> Answers:
    """Curves that start at ``first`` [n] and close a tenth of the rest with each click."""
    rest = (1 - first)[:, None] * 0.9 ** np.arange(20)[None]
    curves = 1 - rest
    return Answers(curves, curves[:, 2].copy() if boundary is None else boundary)


def on_images(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


SERVING = answers(np.linspace(0.3, 0.6, 12))


def test_a_better_candidate_is_promoted_and_everything_is_kept() -> None:
    candidate = answers(np.linspace(0.4, 0.7, 12))
    verdict = decide(candidate, SERVING, on_images(12), min_regions=3)
    assert verdict.promote
    assert verdict.reason.startswith("Promoted: 3-mIoU from 0.554 to 0.636 on 12 hold-out regions")
    kept = json.loads(json.dumps(verdict.metrics))
    assert kept["regions"] == kept["images"] == 12
    assert (
        set(kept["candidate"])
        == set(kept["bootstrap"])
        == {
            "noc85",
            "noc90",
            "miou1",
            "miou3",
            "miou5",
            "boundary3",
        }
    )
    assert kept["bootstrap"]["miou3"]["low"] > 0


def test_an_equal_candidate_is_refused() -> None:
    verdict = decide(SERVING, SERVING, on_images(12), min_regions=3)
    assert not verdict.promote
    assert "not better" in verdict.reason


def test_a_worse_candidate_is_refused() -> None:
    verdict = decide(answers(np.full(12, 0.2)), SERVING, on_images(12), min_regions=3)
    assert not verdict.promote
    assert "not better" in verdict.reason


def test_a_gain_that_may_be_luck_is_refused() -> None:
    first = np.full(12, 0.4)
    candidate = first.copy()
    candidate[0], candidate[1:4] = 0.99, 0.25  # one image gains much, some lose
    verdict = decide(answers(candidate), answers(first), on_images(12), min_regions=3)
    assert not verdict.promote
    assert "luck" in verdict.reason


def test_a_figure_that_gets_worse_beyond_doubt_is_refused() -> None:
    candidate = answers(np.linspace(0.4, 0.7, 12), boundary=np.full(12, 0.1))
    verdict = decide(candidate, SERVING, on_images(12), min_regions=3)
    assert not verdict.promote
    assert "boundary IoU after 3 clicks got worse beyond doubt" in verdict.reason


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_regions_are_refused_with_that_reason(count: int) -> None:
    few = answers(np.full(count, 0.9))
    verdict = decide(few, answers(np.full(count, 0.1)), on_images(count), min_regions=3)
    assert not verdict.promote
    assert f"{count} accepted hold-out region" in verdict.reason
    assert "at least 3" in verdict.reason
    assert verdict.metrics["regions"] == count
    json.dumps(verdict.metrics, allow_nan=False)


def test_regions_of_a_single_image_are_no_verdict() -> None:
    one = np.zeros(12, dtype=np.int64)
    verdict = decide(answers(np.linspace(0.4, 0.7, 12)), SERVING, one, min_regions=3)
    assert not verdict.promote
    assert "all 12 accepted hold-out regions lie on one image" in verdict.reason


def test_regions_of_one_image_do_not_make_the_interval_narrower() -> None:
    random = np.random.default_rng(1)
    per_image = random.normal(0.02, 0.05, 10)
    alone = paired_bootstrap(per_image, on_images(10))
    tenfold = paired_bootstrap(np.repeat(per_image, 10), np.repeat(on_images(10), 10))
    assert tenfold.high - tenfold.low == pytest.approx(alone.high - alone.low)


def test_the_bootstrap_covers_the_true_difference_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = paired_bootstrap(random.normal(0.1, 0.2, 40), on_images(40), seed=trial)
        hits += interval.low <= 0.1 <= interval.high
    assert 165 <= hits <= 195  # 90 % of 200 is 180


def test_the_same_numbers_give_the_same_verdict() -> None:
    candidate = answers(np.linspace(0.31, 0.62, 12))
    first, second = (decide(candidate, SERVING, on_images(12), min_regions=3) for _ in range(2))
    assert first == second


def test_clicks_to_counts_a_curve_that_never_gets_there_as_all_clicks() -> None:
    curves = np.array([[0.9, 0.9], [0.1, 0.86], [0.1, 0.2]])
    assert clicks_to_reach(curves, 0.85).tolist() == [1, 2, 2]


def test_figures_are_means_over_regions() -> None:
    table = figures(Answers(np.tile([0.1, 0.2, 0.3, 0.4, 0.5], (4, 1)), np.full(4, 0.25)))
    assert table == pytest.approx(
        {"noc85": 5, "noc90": 5, "miou1": 0.1, "miou3": 0.3, "miou5": 0.5, "boundary3": 0.25}
    )
