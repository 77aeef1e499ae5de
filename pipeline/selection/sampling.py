"""Chooses the images to label next: distinct, spread over the data, and hard ones more often.

Pure numpy and scikit-learn: no database, no network. The steps, each a function below:

1. near-duplicates count as one image, and near-duplicates of labelled images leave the pool;
2. a share is drawn at random: the unbiased baseline that the rest has to beat;
3. k-means divides the remaining images into one stratum per remaining pick of the batch;
4. each stratum gives the image with the highest ``beta * log(hardness)`` plus Gumbel noise. This
   noise (the power acquisition of Kirsch et al., arXiv:2106.12059) prevents a batch in which all
   images are difficult in the same way.
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

    ``index`` is the row in the given vectors. ``reason`` is "hard" (chosen from its stratum),
    "random" (from the random share) or "duplicate" (no distinct image was left). ``hardness`` is in
    [0, 1], or None where unknown. ``stratum`` is None for images that no stratum gave.
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
    """Choose ``size`` of the images that are not labelled, in the order in which to label them.

    The batch has exactly ``size`` picks, or the whole pool when that is smaller. Near-duplicates
    come last and only when no distinct image is left. The same arguments give the same batch.

    Args:
        vectors: float [N, C]; the rows may have any length greater than zero.
        hardness: float [N] in [0, 1]; NaN where nothing is known, which counts as the median.
        labelled: bool [N]; these are never picked, nor are their near-duplicates.
        size: images wanted, at least 0.
        random_share: share of the batch in [0, 1] that is drawn at random.
        duplicate_similarity: cosine similarity from which two images are near-duplicates.
        beta: weight of hardness against noise; 0 draws at random within the strata.
        seed: of all random draws.

    Raises:
        ValueError: the arrays have different N, or hold values that are not finite.
    """
    _check(vectors, hardness, labelled)
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(~labelled)
    size = min(size, len(pool))
    if size == 0:
        return []

    # In random order, so that the choice among near-duplicates does not depend on hardness and
    # the random share stays a fair sample.
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
        # At a random place, so that both kinds are labelled even if the round is left half done.
        place = int(rng.integers(len(picks) + 1))
        picks.insert(place, Pick(int(index), "random", _known(hardness[index]), None))
    spare = shuffled[~np.isin(shuffled, distinct)]
    for index in spare[: size - len(picks)]:
        picks.append(Pick(int(index), "duplicate", _known(hardness[index]), None))
    return picks


def distinct_rows(
    units: Vectors, order: Ints, labelled: Bools, duplicate_similarity: float
) -> Ints:
    """The rows of ``order`` that are near-duplicates of no labelled row and of no earlier row.

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
        # With fewer different vectors than strata, some strata stay empty, which is allowed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = kind(n_clusters=n_strata, n_init=1, random_state=seed).fit_predict(units)
    return np.asarray(found, dtype=np.int64)


def one_per_stratum(scores: Floats, strata: Ints, n_picks: int) -> Ints:
    """The row with the best score of each stratum, highest score first; then the second best rows
    of each stratum, and so on.

    ``scores`` is float [N], ``strata`` int [N]; returns int [n_picks], with n_picks at most N.
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
    """``beta * log(hardness)`` plus Gumbel noise, float [N].

    The row with the highest score is a random draw with probabilities as hardness**beta.
    """
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
