from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from model.network.prompts import Prompt
from pipeline.selection.hardness import (
    ANCHORS,
    JITTERS,
    boundary_entropy,
    combine,
    disagreement,
    effort,
    jittered_clicks,
    probe,
    spread,
)

NAN = float("nan")


def disc(radius: float, sharpness: float, centre: float = 32) -> npt.NDArray[np.float32]:
    """Float [64, 64]: probability of a disc whose outline is as sharp as wanted."""
    rows, cols = np.mgrid[:64, :64]
    distance = np.hypot(rows - centre, cols - centre)
    return np.asarray(1 / (1 + np.exp((distance - radius) * sharpness)), dtype=np.float32)


def test_equal_answers_agree_and_disjoint_ones_do_not() -> None:
    assert disagreement([disc(10, 4)] * 3) == 0
    assert disagreement([disc(6, 4, 10), disc(6, 4, 50)]) == 1
    some = disagreement([disc(10, 4), disc(12, 4), disc(14, 4)])
    assert 0 < some < 0.6


def test_empty_answers_agree_and_one_answer_has_no_pair() -> None:
    empty = np.zeros((8, 8), dtype=np.float32)
    assert disagreement([empty, empty]) == 0
    assert disagreement([disc(10, 4)]) == 0


def test_a_blurred_outline_is_harder_than_a_sharp_one() -> None:
    sharp, blurred = boundary_entropy(disc(16, 8)), boundary_entropy(disc(16, 0.3))
    assert 0 <= sharp < 0.4 < blurred <= 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_answer_without_outline_is_undecided(value: float) -> None:
    assert boundary_entropy(np.full((8, 8), value, dtype=np.float32)) == 1


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (480, 640), (4000, 3000)])
def test_clicks_lie_on_the_image_and_repeat_with_the_seed(size: tuple[int, int]) -> None:
    groups = jittered_clicks(size, seed=5)
    assert [len(group) for group in groups] == [JITTERS] * ANCHORS
    for click in (click for group in groups for click in group):
        assert 0 <= click.row <= size[0] - 1
        assert 0 <= click.col <= size[1] - 1
    assert groups == jittered_clicks(size, seed=5)


@dataclass(frozen=True)
class Answer:
    probability: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Encoded:
    image_size: tuple[int, int] = (64, 64)


class Unsure:
    """A decoder whose answer follows the click, the more so the larger ``pull``."""

    def __init__(self, pull: float, sharpness: float) -> None:
        self.pull, self.sharpness = pull, sharpness

    def decode_many(self, embedding: object, prompts: Sequence[Prompt]) -> list[Answer]:
        rows = [prompt.clicks[0].row for prompt in prompts]
        return [Answer(disc(12, self.sharpness, 32 + self.pull * (row - 32))) for row in rows]


def test_probe_tells_a_sure_model_from_an_unsure_one() -> None:
    sure = probe(Unsure(0, 8), Encoded(), 0)  # type: ignore[arg-type]
    unsure = probe(Unsure(4, 0.5), Encoded(), 0)  # type: ignore[arg-type]
    assert sure.disagreement == 0
    assert 0 < unsure.disagreement <= 1
    assert sure.boundary_entropy < unsure.boundary_entropy <= 1


def test_combine_ranks_and_leaves_out_what_is_missing() -> None:
    combined = combine(
        {"a": np.array([1.0, 2.0, 3.0, NAN]), "b": np.array([NAN, 900.0, 100.0, NAN])}
    )
    assert combined[0] == pytest.approx(1 / 6)  # only "a" speaks
    assert combined[1] == pytest.approx((3 / 6 + 3 / 4) / 2)
    assert np.isnan(combined[3])
    assert np.nanmin(combined) >= 0
    assert np.nanmax(combined) <= 1


def test_combine_gives_ties_one_rank_and_nothing_for_nothing() -> None:
    assert combine({"a": np.full(4, 7.0)}).tolist() == [0.5] * 4
    assert np.isnan(combine({"a": np.full(3, NAN)})).all()


def test_effort_rises_with_clicks_seconds_and_corrections() -> None:
    easy_to_hard = effort(
        clicks=np.array([1.0, 3.0, 9.0]),
        seconds=np.array([2.0, NAN, 60.0]),
        first_iou=np.array([0.97, 0.8, 0.2]),
        last_iou=np.array([1.0, 0.98, 0.7]),
    )
    assert (np.diff(easy_to_hard) > 0).all()


def test_spread_gives_each_image_the_effort_of_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(2, 16, dtype=np.float32)
    known = np.repeat(centres, 6, axis=0) + 0.05 * rng.normal(size=(12, 16)).astype(np.float32)
    values = np.repeat([0.1, 0.9], 6)
    found = spread(known, values, centres)
    assert found == pytest.approx([0.1, 0.9], abs=0.05)


def test_spread_from_one_or_no_image() -> None:
    vectors = np.eye(3, 4, dtype=np.float32)
    assert spread(vectors[:1], np.array([0.7]), vectors) == pytest.approx([0.7] * 3)
    assert np.isnan(spread(vectors[:0], np.empty(0), vectors)).all()
