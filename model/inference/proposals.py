"""Masks of all objects of an image, without an annotator: the field's segment-anything task.

Each click of a grid is answered by itself, as in SegNext's and SAM's protocol (arXiv 2404.00741,
2304.02643). An answer is kept when it looks like an object: it hardly changes with the threshold,
covers its click, and is neither very small nor the background. Of several answers with nearly the
same mask, the most stable is kept. All of this happens at stride 4 of the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from model.errors import PromptError
from model.masks import Mask
from model.network.embedding import Embedding
from model.network.prediction import Prediction
from model.network.prompts import Click, Prompt
from model.network.segnext import SegNext
from model.progress import Progress, silent

BATCH = 32  # clicks answered between two reports of progress; this bounds the memory too
OUTSIDE = -10.0  # the logit of parts of an answer that were removed
LARGEST_GRID = 64


@dataclass(frozen=True)
class ProposalConfig:
    """How many clicks are made, and which answers are kept. ``docs/proposals.md`` says how the
    defaults were chosen.

    Attributes:
        grid: 1 to 64; about ``grid ** 2`` clicks are made, in cells as square as the image allows.
        offset: above 0; how far, in logits, the threshold is moved up and down to see how much the
            mask changes.
        min_stability: 0 to 1; an answer is dropped when the IoU of those two masks is lower.
        min_area, max_area: 0 to 1; an answer is dropped when it covers a smaller, or a larger,
            share of the image.
        max_iou: 0 to 1; of two answers with a higher IoU the less stable is dropped.
        max_proposals: 1 or more; how many are kept, the most stable first.
    """

    grid: int = 16
    offset: float = 1.0
    min_stability: float = 0.15
    min_area: float = 0.005
    max_area: float = 0.8
    max_iou: float = 0.5
    max_proposals: int = 30

    def __post_init__(self) -> None:
        shares = (self.min_stability, self.min_area, self.max_area, self.max_iou)
        if not 1 <= self.grid <= LARGEST_GRID or self.max_proposals < 1 or not self.offset > 0:
            raise PromptError(
                "Proposals take a grid of 1 to 64, an offset above 0 and at least one proposal; "
                "mend the one that is not."
            )
        if not all(0 <= share <= 1 for share in shares):
            raise PromptError("The shares and IoUs of a proposal config are 0 to 1; mend them.")


@dataclass(frozen=True, eq=False)
class Proposal:
    """One object that the network found.

    Attributes:
        prediction: the answer, reduced to the part that was clicked on, at stride 4. Its
            ``mask()``, bool ``[H, W]``, is made when asked for, so many proposals take little
            memory.
        click: the click that it answers; it lies in the mask.
        stability: in (0, 1]; IoU of the masks at two thresholds.
        area: share of the image that it covers, in (0, 1].
    """

    prediction: Prediction
    click: Click
    stability: float
    area: float

    @property
    def score(self) -> float:
        """The estimated IoU in [0, 1], as ``Prediction.score``."""
        return self.prediction.score

    @property
    def cells(self) -> Mask:
        """The mask at stride 4 of the network's input: bool ``[h, w]``."""
        return self.prediction.logits.numpy() > _cut(self.prediction)


def propose(
    model: SegNext,
    embedding: Embedding,
    config: ProposalConfig = ProposalConfig(),
    progress: Progress = silent,
) -> list[Proposal]:
    """Propose masks for the objects of one image.

    Args:
        model: the network that the embedding is from.
        embedding: of the image.
        config: how many clicks are made, and which answers are kept.
        progress: called with the number of clicks answered, and of all clicks.

    Returns:
        The proposals, the largest first; the same ones every time.
    """
    clicks = grid_clicks(embedding.image_size, config.grid)
    found: list[Proposal] = []
    for start in range(0, len(clicks), BATCH):
        progress(start, len(clicks))
        some = clicks[start : start + BATCH]
        answers = model.decode_many(embedding, [Prompt((click,)) for click in some])
        judged = (_judge(*pair, config) for pair in zip(some, answers, strict=True))
        found += [proposal for proposal in judged if proposal is not None]
    progress(len(clicks), len(clicks))
    kept = distinct(found, config)
    return sorted(kept, key=lambda proposal: -proposal.area)


def grid_clicks(image_size: tuple[int, int], grid: int) -> list[Click]:
    """About ``grid ** 2`` positive clicks, each in the middle of its cell, in pixels of an image of
    ``image_size`` (height, width); along a side never more than it has pixels."""
    height, width = image_size
    rows = min(max(round(grid * math.sqrt(height / width)), 1), height)
    cols = min(max(round(grid * math.sqrt(width / height)), 1), width)
    return [
        Click((row + 0.5) * height / rows, (col + 0.5) * width / cols)
        for row in range(rows)
        for col in range(cols)
    ]


def _judge(click: Click, answer: Prediction, config: ProposalConfig) -> Proposal | None:
    """The answer to a click as a proposal; None when it does not look like an object."""
    logits = answer.logits.numpy()
    cut = _cut(answer)
    mask = logits > cut
    part = _part_at(mask, _cell(click, answer))
    fits = part.any() and config.min_area <= part.mean() <= config.max_area
    if not fits or _is_ground(part):
        return None
    trimmed = np.where(mask & ~part, np.float32(OUTSIDE), logits)
    narrow = np.count_nonzero(trimmed > cut + config.offset)
    stability = narrow / np.count_nonzero(trimmed > cut - config.offset)
    if stability < config.min_stability or not narrow:
        return None
    trimmed_answer = replace(answer, logits=torch.from_numpy(trimmed))
    return Proposal(trimmed_answer, click, float(stability), float(part.mean()))


def _cut(answer: Prediction) -> float:
    """The threshold as a logit."""
    return math.log(answer.threshold / (1 - answer.threshold))


def _cell(click: Click, answer: Prediction) -> tuple[int, int]:
    """The (row, col) of an answer's logits in which a click lies."""
    height, width = answer.logits.shape
    row = int(click.row * height / answer.image_size[0])
    col = int(click.col * width / answer.image_size[1])
    return min(row, height - 1), min(col, width - 1)


def _part_at(mask: Mask, cell: tuple[int, int]) -> Mask:
    """The connected part of a mask, bool ``[h, w]``, around a cell; empty when the cell is outside
    the mask."""
    if not mask[cell]:
        return np.zeros_like(mask)
    parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    return np.asarray(parts == parts[cell], np.bool_)


def _is_ground(mask: Mask) -> bool:
    """Whether a mask, bool ``[h, w]``, reaches all four sides of the image; of objects, only 1 in
    300 does."""
    return bool(mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any())


def distinct(found: Sequence[Proposal], config: ProposalConfig) -> list[Proposal]:
    """The most stable of each group of similar masks; of equally stable ones the earlier click's
    answer."""
    order = sorted(found, key=lambda proposal: -proposal.stability)
    if not order:
        return []
    masks = np.stack([proposal.cells.ravel() for proposal in order])
    # One matrix product for all pairs. float32 is exact up to 2**24 cells, and fast in BLAS.
    areas, ones = masks.sum(1), masks.astype(np.float32)
    common = ones @ ones.T
    iou = common / (areas[:, None] + areas[None] - common)
    kept: list[int] = []
    for index in range(len(order)):
        if not kept or iou[index, kept].max() <= config.max_iou:
            kept.append(index)
    return [order[index] for index in kept[: config.max_proposals]]
