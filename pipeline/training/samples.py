"""Turns snapshot regions into training samples, and into answers for the gate."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from model.errors import MaskloopError
from model.evaluation.curves import boundary_iou, click_curve
from model.network.embedding import Embedding
from model.network.segnext import SegNext
from model.progress import Progress, silent
from pipeline.embeddings.tiers import Embeddings
from pipeline.masks.ops import from_png
from pipeline.record.tables import SnapshotRegion
from pipeline.training.gate import Answers

log = logging.getLogger(__name__)

Sample = tuple[Embedding, npt.NDArray[np.bool_]]
BOUNDARY_CLICKS = 3  # the click after which the boundary is judged


class Samples(Sequence[Sample]):
    """Regions as (embedding, bool mask [H, W]), each read when it is used.

    A mask of a large photograph takes one byte per pixel, so thousands would not fit in memory.
    The embeddings have a cache with a size limit.
    """

    def __init__(
        self, regions: Sequence[SnapshotRegion], embeddings: Embeddings, model: SegNext
    ) -> None:
        self._regions = regions
        self._embeddings = embeddings
        self._model = model

    def __len__(self) -> int:
        return len(self._regions)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Samples(self._regions[index], self._embeddings, self._model)
        region = self._regions[index]
        return self._embeddings.get(region.image_id, self._model), from_png(region.mask)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def usable(
    regions: Sequence[SnapshotRegion],
    embeddings: Embeddings,
    model: SegNext,
    progress: Progress = silent,
) -> list[SnapshotRegion]:
    """The regions that can be used for training or for the gate; missing embeddings are made now.

    A region whose image is lost, whose mask is damaged or empty, or whose mask has another size
    than its image is left out with a warning: one bad file must not stop every fine-tune.
    """
    good = []
    for done, (region, sample) in enumerate(_tried(regions, embeddings, model), start=1):
        if sample is not None:
            good.append(region)
        progress(done, len(regions))
    return good


def _tried(
    regions: Sequence[SnapshotRegion], embeddings: Embeddings, model: SegNext
) -> Iterator[tuple[SnapshotRegion, Sample | None]]:
    samples = Samples(regions, embeddings, model)
    for index, region in enumerate(regions):
        try:
            embedding, mask = samples[index]
        except MaskloopError as error:
            log.warning("Region %d of the snapshot is left out: %s", region.id, error)
            yield region, None
            continue
        if mask.shape != embedding.image_size or not mask.any():
            log.warning("Region %d of the snapshot is left out: its mask does not fit.", region.id)
            yield region, None
            continue
        yield region, (embedding, mask)


def answers(
    model: SegNext,
    regions: Sequence[SnapshotRegion],
    embeddings: Embeddings,
    clicks: int,
    progress: Progress = silent,
) -> Answers:
    """Let a simulated annotator click every region with ``model``.

    Returns:
        Curves float64 [n, clicks] and boundary IoU float64 [n], in the order of ``regions``.
    """
    curves, boundary = np.zeros((len(regions), clicks)), np.zeros(len(regions))
    for row, (embedding, mask) in enumerate(Samples(regions, embeddings, model)):
        clicked = click_curve(model, embedding, mask, clicks)
        curves[row] = clicked.iou
        boundary[row] = boundary_iou(clicked.answers[:BOUNDARY_CLICKS][-1].mask(), mask)
        progress(row + 1, len(regions))
    return Answers(curves, boundary)
