from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.checkpoints import files as checkpoints
from model.errors import PromptError
from model.inference.proposals import Proposal, ProposalConfig, distinct, grid_clicks, propose
from model.masks import iou
from model.network.embedding import Embedding
from model.network.prediction import Prediction
from model.network.prompts import Click
from model.network.segnext import SegNext

SIZE = (240, 320)
COLOURS = ((240, 200, 60), (60, 120, 240), (230, 70, 70), (90, 220, 110))
GRID = 6


def four_objects() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A disk, two ellipses and a box on a dark background, and their indices 1 to 4."""
    rng = np.random.default_rng(0)
    image = rng.integers(20, 50, (*SIZE, 3))
    indices = np.zeros(SIZE, np.uint8)
    rows, cols = np.indices(SIZE)
    indices[(rows - 60) ** 2 + (cols - 70) ** 2 < 40**2] = 1
    indices[(rows - 60) ** 2 / 28**2 + (cols - 235) ** 2 / 45**2 < 1] = 2
    indices[140:215, 40:110] = 3
    indices[(rows - 175) ** 2 / 35**2 + (cols - 220) ** 2 / 60**2 < 1] = 4
    for index, colour in enumerate(COLOURS, start=1):
        noise = rng.integers(-12, 12, (np.count_nonzero(indices == index), 3))
        image[indices == index] = np.array(colour) + noise
    return np.clip(image, 0, 255).astype(np.uint8), indices


@pytest.fixture(scope="module")
def model() -> SegNext:
    return checkpoints.load(checkpoints.default_checkpoint())


@pytest.fixture(scope="module")
def embedding(model: SegNext) -> Embedding:
    return model.encode(four_objects()[0])


@pytest.fixture(scope="module")
def proposals(model: SegNext, embedding: Embedding) -> list[Proposal]:
    return propose(model, embedding, ProposalConfig(grid=GRID))


def test_each_object_is_proposed_once(proposals: list[Proposal]) -> None:
    masks = [proposal.prediction.mask() for proposal in proposals]
    indices = four_objects()[1]
    for index in range(1, 5):
        alike = [iou(mask, indices == index) for mask in masks]
        assert max(alike) > 0.75
        assert sum(value > 0.4 for value in alike) == 1
    assert len(masks) <= 6


def test_a_proposal_has_its_click_area_and_scores(proposals: list[Proposal]) -> None:
    areas = [proposal.area for proposal in proposals]
    assert areas == sorted(areas, reverse=True)
    for proposal in proposals:
        mask = proposal.prediction.mask()
        assert mask.shape == SIZE
        assert mask[int(proposal.click.row), int(proposal.click.col)]
        assert mask.mean() == pytest.approx(proposal.area, abs=0.02)
        assert ProposalConfig().min_stability <= proposal.stability <= 1
        assert 0 < proposal.score <= 1


def test_the_same_image_has_the_same_proposals(model: SegNext, embedding: Embedding) -> None:
    steps: list[tuple[int, int | None]] = []
    config = ProposalConfig(grid=4)
    first = propose(model, embedding, config, lambda done, total: steps.append((done, total)))
    again = propose(model, embedding, config)
    assert [proposal.click for proposal in first] == [proposal.click for proposal in again]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.prediction.logits, other.prediction.logits)
    assert steps[0] == (0, 15)
    assert steps[-1] == (15, 15)


def test_a_click_outside_its_own_mask_is_no_proposal_even_without_a_least_size(model, embedding):
    for proposal in propose(model, embedding, ProposalConfig(grid=8, min_area=0)):
        assert proposal.area > 0 and proposal.cells.any()


def test_proposals_of_a_large_image_are_kept_small(model: SegNext, embedding: Embedding) -> None:
    large = replace(embedding, image_size=(4500, 6000))
    found = propose(model, large, ProposalConfig(grid=4))
    assert found
    for proposal in found:
        logits = proposal.prediction.logits
        assert proposal.prediction.image_size == (4500, 6000)
        # It keeps neither full-size pixels nor the batch that it was a part of.
        assert logits.untyped_storage().nbytes() == 4 * logits.numel()
        assert logits.numel() < 100 * 100


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (300, 2)])
def test_an_image_too_small_for_objects_is_no_error(model: SegNext, size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    for proposal in propose(model, model.encode(image), ProposalConfig(grid=4)):
        assert proposal.prediction.mask().shape == size


def test_on_an_even_background_hardly_anything_is_proposed(model: SegNext) -> None:
    image = np.full((*SIZE, 3), (90, 120, 60), np.uint8)
    assert len(propose(model, model.encode(image), ProposalConfig(grid=4))) <= 1


@pytest.mark.parametrize(
    ("size", "shape"),
    [((400, 400), (4, 4)), ((100, 400), (2, 8)), ((400, 100), (8, 2)), ((1, 1), (1, 1))],
)
def test_clicks_lie_in_the_middles_of_square_cells(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    clicks = grid_clicks(size, 4)
    rows = sorted({click.row for click in clicks})
    cols = sorted({click.col for click in clicks})
    assert (len(rows), len(cols)) == shape
    assert len(clicks) == shape[0] * shape[1]
    np.testing.assert_allclose(rows, (np.arange(shape[0]) + 0.5) * size[0] / shape[0])
    np.testing.assert_allclose(cols, (np.arange(shape[1]) + 0.5) * size[1] / shape[1])
    assert all(click.positive for click in clicks)


def test_a_side_has_no_more_clicks_than_pixels() -> None:
    assert len(grid_clicks((1, 100), 64)) == 100
    assert len(grid_clicks((3, 2), 16)) == 6


def made(stability: float, *boxes: tuple[int, int, int, int]) -> Proposal:
    """A proposal of boxes (top, left, bottom, right) on 40 x 40 cells."""
    logits = torch.full((40, 40), -5.0)
    for top, left, bottom, right in boxes:
        logits[top:bottom, left:right] = 5
    prediction = Prediction(logits, (160, 160), (160, 160), 0.49)
    return Proposal(prediction, Click(0, 0), stability, float((logits > 0).float().mean()))


def test_of_two_similar_proposals_the_more_stable_is_kept() -> None:
    steady, same, other = (
        made(0.8, (0, 0, 10, 10)),
        made(0.6, (0, 0, 10, 11)),
        made(0.4, (20, 20, 30, 30)),
    )
    assert distinct([same, other, steady], ProposalConfig()) == [steady, other]
    assert distinct([], ProposalConfig()) == []


def test_a_part_and_its_whole_are_both_kept() -> None:
    whole, part = made(0.9, (0, 0, 20, 20)), made(0.8, (2, 2, 8, 8))
    assert distinct([part, whole], ProposalConfig()) == [whole, part]


def test_the_least_stable_are_dropped_where_there_are_too_many() -> None:
    many = [made(0.5 + n / 100, (2 * n, 0, 2 * n + 2, 10)) for n in range(10)]
    kept = distinct(many, ProposalConfig(max_proposals=3))
    assert kept == many[:-4:-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"grid": 0},
        {"grid": 65},
        {"offset": 0.0},
        {"offset": float("nan")},
        {"min_stability": 1.5},
        {"max_iou": -0.1},
        {"min_area": float("nan")},
        {"max_proposals": 0},
    ],
)
def test_a_config_out_of_its_ranges_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(PromptError, match="mend"):
        ProposalConfig(**wrong)  # type: ignore[arg-type]
