"""Estimates how hard an image will be to label, without a label or a second model.

- Disagreement: clicks moved by a few pixels should give the same mask; when they do not, the model
  does not know the object.
- Boundary entropy: how uncertain the answer is along its own outline.
- Effort: what similar labelled images cost their annotators, averaged over nearest neighbours.

The signals have different units, so they are combined by rank; a missing signal is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation
from scipy.stats import rankdata

from model.network.prompts import Click, Prompt
from pipeline.selection.sampling import unit

if TYPE_CHECKING:
    from model.network.embedding import Embedding
    from model.network.prediction import Prediction

Floats = npt.NDArray[np.float64]

ANCHORS = 2  # places that are clicked in one image: its centre, and one drawn at random
JITTERS = 3  # clicks around each place
JITTER_SHARE = 0.02  # of the image's shorter side, in each direction
INNER = (0.25, 0.75)  # a drawn place lies in this part of the width and height, where objects are
BAND = 2  # pixels on either side of the outline, at the answer's own low resolution
NEIGHBOURS = 5


class Decoder(Protocol):
    """The part of ``model.network.segnext.SegNext`` that probing needs."""

    def decode_many(
        self, embedding: Embedding, prompts: Sequence[Prompt]
    ) -> Sequence[Prediction]: ...


@dataclass(frozen=True)
class Probe:
    """The signals from a few clicks on one image; both in [0, 1], higher is harder."""

    disagreement: float
    boundary_entropy: float


def probe(model: Decoder, embedding: Embedding, seed: int) -> Probe:
    """Click an encoded image ``ANCHORS * JITTERS`` times and compare the answers."""
    groups = jittered_clicks(embedding.image_size, seed)
    prompts = [Prompt(clicks=(click,)) for group in groups for click in group]
    answers = [answer.probability for answer in model.decode_many(embedding, prompts)]
    places = [answers[start : start + JITTERS] for start in range(0, len(answers), JITTERS)]
    return Probe(
        float(np.mean([disagreement(place) for place in places])),
        float(np.mean([boundary_entropy(answer) for answer in answers])),
    )


def jittered_clicks(image_size: tuple[int, int], seed: int) -> list[list[Click]]:
    """Positive clicks on an image of (height, width) pixels: one list for each place."""
    height, width = image_size
    rng = np.random.default_rng(seed)
    places = np.vstack([[0.5, 0.5], rng.uniform(*INNER, size=(ANCHORS - 1, 2))])
    reach = max(2.0, JITTER_SHARE * min(height, width))
    groups = []
    for place in places * [height, width]:
        moved = place + rng.uniform(-reach, reach, size=(JITTERS, 2))
        inside = np.clip(moved, 0, [height - 1, width - 1])
        groups.append([Click(row=float(row), col=float(col)) for row, col in inside])
    return groups


def disagreement(probabilities: Sequence[npt.NDArray[np.float32]]) -> float:
    """Mean of 1 - IoU over all pairs of answers, each float [h, w]; 0 when all are one mask."""
    masks = [probability > 0.5 for probability in probabilities]
    losses = []
    for a, b in combinations(masks, 2):
        union = np.count_nonzero(a | b)
        losses.append(1 - np.count_nonzero(a & b) / union if union else 0.0)
    return float(np.mean(losses)) if losses else 0.0


def boundary_entropy(probability: npt.NDArray[np.float32]) -> float:
    """Mean binary entropy, in bits, in a band around the outline of float [h, w].

    An answer without an outline (an empty mask or the whole image) has the maximum, 1.
    """
    mask = probability > 0.5
    if mask.all() or not mask.any():
        return 1.0
    band = binary_dilation(mask, iterations=BAND) & binary_dilation(~mask, iterations=BAND)
    p = np.clip(probability[band].astype(np.float64), 1e-6, 1 - 1e-6)
    return float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p)))


def spread(
    known: npt.NDArray[np.float32],
    values: Floats,
    vectors: npt.NDArray[np.float32],
    *,
    neighbours: int = NEIGHBOURS,
) -> Floats:
    """Values of the nearest known images, averaged by similarity.

    ``known`` is float [M, C], ``values`` float [M], ``vectors`` float [N, C]; returns float [N],
    all NaN when M is 0.
    """
    if not len(known):
        return np.full(len(vectors), np.nan)
    # Pooled features share a large common part, which would make all images look similar.
    centre = known.mean(axis=0) if len(known) > 1 else np.zeros(known.shape[1], dtype=np.float32)
    similarity = unit(vectors - centre) @ unit(known - centre).T
    k = min(neighbours, len(known))
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weight = np.exp(4 * np.take_along_axis(similarity, nearest, axis=1).astype(np.float64))
    return np.asarray((weight * values[nearest]).sum(axis=1) / weight.sum(axis=1))


def effort(clicks: Floats, seconds: Floats, first_iou: Floats, last_iou: Floats) -> Floats:
    """The effort of each region as one figure in [0, 1]; all float [R], NaN where unknown."""
    return combine(
        {
            "clicks": clicks,
            "seconds": seconds,
            "first answer was off": 1 - first_iou,
            "edited by hand": 1 - last_iou,
        }
    )


def combine(signals: Mapping[str, Floats]) -> Floats:
    """Mean of ranks in [0, 1], float [N]; higher is harder in every signal.

    NaN values are left out of the ranking and of the mean. The result is NaN where no signal is
    known.
    """
    ranked = np.stack([_ranks(signal) for signal in signals.values()])
    known = np.isfinite(ranked)
    total = np.where(known, ranked, 0).sum(axis=0)
    count = known.sum(axis=0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _ranks(values: Floats) -> Floats:
    """Ranks scaled to [0, 1]; equal values share a rank, and NaN stays NaN.

    A single value gets 0.5, and so do all values when they are equal.
    """
    ranks = np.full(len(values), np.nan)
    known = np.isfinite(values)
    n = int(known.sum())
    if n:
        ranks[known] = (rankdata(values[known]) - 0.5) / n
    return ranks
