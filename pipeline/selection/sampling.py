"""Which images to label next: distinct ones, spread over the data, hard ones more often.

Pure numpy and scikit-learn: no database, no network. The steps, each a function below:

1. near-duplicates become one, and those of images that are already labelled leave the pool;
2. a slice is drawn plainly at random: the unbiased baseline the rest has to beat;
3. k-means cuts what is left into one stratum per place in the batch;
4. each stratum gives one image, by ``beta * log(hardness)`` plus Gumbel noise. Noise on the scores
   ("power sampling") keeps a batch from being many copies of one difficulty.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning

Reason = Literal["hard", "random", "duplicate"]
Vectors = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

BLOCK = 1024  # rows compared at once: 1024 x 10,000 similarities are 40 MB
SMALLEST_HARDNESS = 1e-3  # keeps the logarithm finite
MANY_VECTORS = 20_000  # beyond this, k-means works on mini-batches


@dataclass(frozen=True)
class Pick:
    """One image of a batch.

    ``index`` counts in the vectors given. ``reason`` is "hard" (its stratum's draw), "random" (the
    plain random slice) or "duplicate" (nothing distinct was left). ``hardness`` in [0, 1], None
    where unknown. ``stratum`` is None outside the strata.
    """

    index: int
    reason: Reason
    hardness: float | None
    stratum: int | None


def select(
    vectors: Vectors,
    hardness: Floats,
    labelled: Bools,
    *,
    size: int,
    random_share: float = 0.15,
    duplicate_similarity: float = 0.98,
    beta: float = 1.0,
    seed: int = 0,
) -> list[Pick]:
    """Choose ``size`` of the images that are not labelled, in the order to hand them out.

    The batch has exactly ``size`` picks, or the whole pool where that is smaller; near-duplicates
    come last and only when nothing distinct is left. The same arguments give the same batch.

    Args:
        vectors: float [N, C], of any length but zero.
        hardness: float [N] in [0, 1]; NaN where nothing is known, which counts as the median.
        labelled: bool [N]; these are never picked, nor are their near-duplicates.
        size: images wanted, at least 0.
        random_share: share of the batch in [0, 1] that is drawn plainly at random.
        duplicate_similarity: cosine similarity from which two images are one.
        beta: weight of hardness against noise; 0 is random within strata.
        seed: of everything that is drawn.

    Raises:
        ValueError: the arrays do not belong together, or hold values that are not finite.
    """
    _check(vectors, hardness, labelled)
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(~labelled)
    size = min(size, len(pool))
    if size == 0:
        return []

    # In random order, so that which of several near-duplicates stands for all says nothing
    # about its hardness, and the random slice stays a fair sample.
    shuffled = rng.permutation(pool)
    distinct = distinct_rows(unit(vectors), shuffled, labelled, duplicate_similarity)

    n_random = round(min(size, len(distinct)) * random_share)
    drawn_at_random, rest = distinct[:n_random], np.sort(distinct[n_random:])
    n_hard = min(size - n_random, len(rest))
    scores = noisy_scores(hardness[rest], beta, rng)
    strata = cut_strata(unit(vectors[rest]), n_hard, seed)
    hard = one_per_stratum(scores, strata, n_hard)

    picks = [Pick(int(rest[i]), "hard", _known(hardness[rest[i]]), int(strata[i])) for i in hard]
    for index in drawn_at_random:
        # Anywhere in the order: a round that is left half done still holds both kinds.
        place = int(rng.integers(len(picks) + 1))
        picks.insert(place, Pick(int(index), "random", _known(hardness[index]), None))
    spare = shuffled[~np.isin(shuffled, distinct)]
    for index in spare[: size - len(picks)]:
        picks.append(Pick(int(index), "duplicate", _known(hardness[index]), None))
    return picks


def distinct_rows(
    units: Vectors, order: Ints, labelled: Bools, duplicate_similarity: float
) -> Ints:
    """The rows of ``order``, in that order, that resemble no labelled row and none before them.

    ``units`` is float [N, C] of unit rows, ``order`` int [M] of rows that are not labelled.
    """
    kept: list[int] = []
    reference = units[labelled]
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        fresh = block[~_resembles(units[block], reference, duplicate_similarity)]
        if kept:
            fresh = fresh[~_resembles(units[fresh], units[kept], duplicate_similarity)]
        among = units[fresh] @ units[fresh].T >= duplicate_similarity
        gone = np.zeros(len(fresh), dtype=bool)
        for i in range(len(fresh)):
            if not gone[i]:
                kept.append(int(fresh[i]))
                gone |= among[i]
    return np.array(kept, dtype=np.int64)


def cut_strata(units: Vectors, n_strata: int, seed: int) -> Ints:
    """k-means over float [N, C]: the stratum of each row, int [N] in [0, n_strata)."""
    if n_strata >= len(units):
        return np.arange(len(units), dtype=np.int64)
    if n_strata <= 1:
        return np.zeros(len(units), dtype=np.int64)
    kind = MiniBatchKMeans if len(units) > MANY_VECTORS else KMeans
    with warnings.catch_warnings():
        # Fewer different vectors than strata: some stay empty, which one_per_stratum copes with.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = kind(n_clusters=n_strata, n_init=1, random_state=seed).fit_predict(units)
    return np.asarray(found, dtype=np.int64)


def one_per_stratum(scores: Floats, strata: Ints, n_picks: int) -> Ints:
    """Rows of the best score of each stratum, highest first; then second bests, and so on.

    ``scores`` is float [N], ``strata`` int [N]; int [n_picks] comes back, n_picks at most N.
    """
    best_first = np.argsort(-scores, kind="stable")
    seen: dict[int, int] = {}
    turn = np.empty(len(scores), dtype=np.int64)  # 0: best of its stratum, 1: second best, ...
    for row in best_first:
        stratum = int(strata[row])
        turn[row] = seen.get(stratum, 0)
        seen[stratum] = int(turn[row]) + 1
    chosen = np.lexsort((-scores, turn))[:n_picks]
    return np.asarray(chosen, dtype=np.int64)


def noisy_scores(hardness: Floats, beta: float, rng: np.random.Generator) -> Floats:
    """``beta * log(hardness)`` plus Gumbel noise, float [N]; the argmax draws by hardness**beta."""
    known = hardness[np.isfinite(hardness)]
    middle = float(np.median(known)) if len(known) else 0.5
    filled = np.where(np.isfinite(hardness), hardness, middle)
    power = beta * np.log(np.clip(filled, SMALLEST_HARDNESS, 1.0))
    return np.asarray(power + rng.gumbel(size=len(hardness)), dtype=np.float64)


def unit(vectors: Vectors) -> Vectors:
    """Rows of float [N, C] scaled to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


def _resembles(units: Vectors, others: Vectors, similarity: float) -> Bools:
    """bool [N]: whether each row of ``units`` is as near as ``similarity`` to any of ``others``."""
    found = np.zeros(len(units), dtype=bool)
    for start in range(0, len(others), BLOCK * 8):
        found |= (units @ others[start : start + BLOCK * 8].T >= similarity).any(axis=1)
    return found


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _check(vectors: Vectors, hardness: Floats, labelled: Bools) -> None:
    n = len(vectors)
    if vectors.ndim != 2 or hardness.shape != (n,) or labelled.shape != (n,):
        raise ValueError(
            f"vectors [N, C], hardness [N] and labelled [N] do not belong together: "
            f"{vectors.shape}, {hardness.shape}, {labelled.shape}"
        )
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold values that are not finite")
