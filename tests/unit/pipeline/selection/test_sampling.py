from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.selection.sampling import Pick, distinct_rows, one_per_stratum, select, unit

Vectors = npt.NDArray[np.float32]


def clusters(n_clusters: int, each: int, width: int = 32, seed: int = 0) -> Vectors:
    """Float [n_clusters * each, width]: tight but distinct groups, members side by side."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n_clusters, 1, width))
    members = centres + 0.4 * rng.normal(size=(n_clusters, each, width))
    return unit(members.reshape(-1, width).astype(np.float32))


def nothing(n: int) -> npt.NDArray[np.bool_]:
    return np.zeros(n, dtype=bool)


def indices(picks: list[Pick]) -> list[int]:
    return [pick.index for pick in picks]


def test_batch_has_the_exact_size_and_no_image_twice() -> None:
    vectors = clusters(10, 30)
    picks = select(vectors, np.full(300, np.nan), nothing(300), size=50)
    assert len(picks) == len(set(indices(picks))) == 50
    assert sum(pick.reason == "random" for pick in picks) == round(50 * 0.15)
    assert all(pick.hardness is None for pick in picks)


def test_same_seed_same_batch_and_another_seed_another() -> None:
    vectors = clusters(10, 30)
    hardness = np.random.default_rng(1).uniform(size=300)
    batches = [select(vectors, hardness, nothing(300), size=30, seed=seed) for seed in (7, 7, 8)]
    assert batches[0] == batches[1]
    assert indices(batches[0]) != indices(batches[2])


def test_strata_are_covered() -> None:
    vectors = clusters(20, 40)
    picks = select(vectors, np.full(800, 0.5), nothing(800), size=20, random_share=0)
    assert len({pick.index // 40 for pick in picks}) >= 18
    assert len({pick.stratum for pick in picks}) == 20


def test_hard_images_are_preferred_more_with_beta() -> None:
    vectors = clusters(20, 40)
    hardness = np.random.default_rng(2).uniform(size=800)

    def mean_hardness(beta: float) -> float:
        drawn = [
            pick.hardness or 0.0
            for seed in range(5)
            for pick in select(
                vectors, hardness, nothing(800), size=20, random_share=0, beta=beta, seed=seed
            )
        ]
        return float(np.mean(drawn))

    assert mean_hardness(0) < 0.6 < mean_hardness(4) < mean_hardness(40)


def test_random_slice_ignores_hardness() -> None:
    vectors = clusters(20, 40)
    hardness = np.linspace(0, 1, 800, dtype=np.float64)
    drawn = [
        pick.hardness or 0.0
        for seed in range(10)
        for pick in select(
            vectors, hardness, nothing(800), size=40, random_share=0.5, beta=10, seed=seed
        )
        if pick.reason == "random"
    ]
    assert abs(float(np.mean(drawn)) - 0.5) < 0.08


def test_neither_labelled_images_nor_their_near_duplicates_are_picked() -> None:
    distinct = clusters(30, 1, width=64)
    noise = np.random.default_rng(3).normal(size=distinct.shape).astype(np.float32)
    vectors = np.concatenate([distinct, unit(distinct + 0.01 * noise)])
    labelled = nothing(60)
    labelled[:10] = True
    picks = select(vectors, np.full(60, 0.5), labelled, size=20, random_share=0.2)
    places = [index % 30 for index in indices(picks)]
    assert sorted(places) == list(range(10, 30))


def test_duplicates_fill_a_batch_only_when_nothing_else_is_left() -> None:
    distinct = clusters(5, 1)
    vectors = np.repeat(distinct, 4, axis=0)
    picks = select(vectors, np.full(20, 0.5), nothing(20), size=12)
    assert len(set(indices(picks))) == 12
    assert {pick.index // 4 for pick in picks[:5]} == set(range(5))
    assert [pick.reason for pick in picks[5:]] == ["duplicate"] * 7


def test_a_small_pool_is_taken_whole() -> None:
    vectors = clusters(3, 2)
    labelled = np.array([True, False, False, False, False, True])
    picks = select(vectors, np.full(6, 0.5), labelled, size=50)
    assert sorted(indices(picks)) == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [0, 1, 2, 3])
def test_tiny_batches(size: int) -> None:
    assert len(select(clusters(4, 4), np.full(16, 0.5), nothing(16), size=size)) == size


def test_an_empty_or_fully_labelled_pool_gives_nothing() -> None:
    empty = np.empty((0, 8), dtype=np.float32)
    assert select(empty, np.empty(0), nothing(0), size=5) == []
    assert select(clusters(2, 2), np.full(4, 0.5), ~nothing(4), size=5) == []


def test_identical_vectors_raise_no_warning() -> None:
    vectors = np.ones((40, 8), dtype=np.float32)
    picks = select(vectors, np.full(40, 0.5), nothing(40), size=10, duplicate_similarity=1.0)
    assert len(set(indices(picks))) == 10


def test_an_unknown_hardness_counts_as_the_median() -> None:
    vectors = clusters(10, 30)
    hardness = np.full(300, np.nan)
    hardness[::2] = 1e-3
    hardness[1] = 1.0
    picks = select(vectors, hardness, nothing(300), size=10, random_share=0, beta=50)
    assert 1 in indices(picks)
    assert any(pick.hardness is None for pick in picks)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        select(clusters(2, 2), np.zeros(3), nothing(4), size=1)
    broken = clusters(2, 2)
    broken[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        select(broken, np.zeros(4), nothing(4), size=1)


def test_one_per_stratum_takes_second_bests_in_turn() -> None:
    scores = np.array([5.0, 4.0, 3.0, 1.0])
    strata = np.array([0, 0, 0, 1])
    assert one_per_stratum(scores, strata, 2).tolist() == [0, 3]
    assert one_per_stratum(scores, strata, 3).tolist() == [0, 3, 1]


def test_distinct_rows_keeps_the_first_of_each_group_across_blocks() -> None:
    units = np.repeat(np.eye(8, dtype=np.float32), 400, axis=0)  # 3200 rows: several blocks
    order = np.arange(len(units))[::-1].copy()
    kept = distinct_rows(units, order, nothing(len(units)), 0.98)
    assert kept.tolist() == [400 * group + 399 for group in reversed(range(8))]


def test_ten_thousand_images_take_seconds() -> None:
    vectors = clusters(200, 50, width=256)
    hardness = np.random.default_rng(4).uniform(size=10_000)
    labelled = nothing(10_000)
    labelled[::10] = True
    start = time.perf_counter()
    picks = select(vectors, hardness, labelled, size=50)
    assert time.perf_counter() - start < 30
    assert len(picks) == 50
