"""Chooses the next round of labelling from a project's pool, and writes it as rows.

All the numbers behind the choice are cheap: the vectors that encoding stored, a few decodes, and
the effort of labelled images. Round 0 has no labels and no effort rows, so the same code uses fewer
signals there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from model.errors import MaskloopError
from model.progress import Progress, silent
from pipeline.errors import NotEnoughDataError, RequestError
from pipeline.record import embeddings, regions, rounds, tasks
from pipeline.record.engine import lock
from pipeline.record.tables import Round, RoundItem
from pipeline.record.tables.task import TaskStatus
from pipeline.runtime import Runtime
from pipeline.selection import hardness as signals
from pipeline.selection import sampling

if TYPE_CHECKING:
    from model.network.segnext import SegNext
    from pipeline.embeddings.tiers import Embeddings

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

# Probing decodes a few times for each image. In a pool larger than this, a random sample is probed
# and the other images get the values of their neighbours, so a round takes minutes at any size.
PROBED = 300
BETA_GROWTH = 5  # later rounds give hardness more weight, up to this many times the setting


@dataclass(frozen=True)
class Candidate:
    """A task with an encoded image. ``vector`` is float32 [C] of length 1."""

    task_id: int
    status: TaskStatus
    image_id: int
    sha256: str
    vector: npt.NDArray[np.float32]


def make_round(
    runtime: Runtime,
    project_id: int,
    model: SegNext,
    *,
    size: int | None = None,
    progress: Progress = silent,
) -> Round:
    """Choose the next round of a project, write its rows and queue its tasks.

    Tasks that an earlier round left unlabelled are in the pool again. An earlier round that was
    never written to Label Studio is deleted, because no annotator has seen it.

    Args:
        model: the serving model; the choice uses its embeddings and answers.
        size: tasks wanted; None: ``settings.selection.size``.
        progress: counts probed images.

    Returns:
        The new round, with fewer tasks only when the pool is smaller.

    Raises:
        RequestError: ``size`` is below 1.
        NotEnoughDataError: the project has no unlabelled task with an encoded image.
    """
    if size is not None and size < 1:
        raise RequestError(f"A round cannot have {size} tasks; ask for 1 or more.")
    with runtime.sessions.begin() as session:
        rounds.drop_unwritten(session, project_id)
    with runtime.sessions() as session:
        candidates = _candidates(session, project_id, model)
        costs = regions.costs(session, project_id)
    waiting = np.array([candidate.status in tasks.WAITING for candidate in candidates], dtype=bool)
    if not waiting.any():
        raise NotEnoughDataError(
            f"No unlabelled task of project {project_id} has an encoded image; "
            "add tasks in Label Studio, or run `maskloop encode`."
        )
    vectors = np.stack([candidate.vector for candidate in candidates])
    hardness = np.full(len(candidates), np.nan)
    hardness[waiting] = _hardness(
        [candidate for candidate in candidates if candidate.status in tasks.WAITING],
        vectors[waiting],
        _effort_by_image(costs, candidates, vectors),
        _Prober(runtime.embeddings, model, runtime.settings.selection.seed, progress),
    )
    wanted = runtime.settings.selection.model_copy(update={"size": size} if size else {})
    with runtime.sessions() as session:
        number = rounds.next_number(session, project_id)
        still = tasks.unlabelled(session, project_id)
    # This is outside any transaction that writes: clustering a large pool takes seconds, and on
    # SQLite the log row of every click would wait that long.
    wanted = wanted.model_copy(update={"beta": wanted.beta * min(number + 1, BETA_GROWTH)})
    picks = sampling.select(
        vectors,
        hardness,
        np.array([candidate.task_id not in still for candidate in candidates], dtype=bool),
        size=wanted.size,
        random_share=wanted.random_share,
        duplicate_similarity=wanted.duplicate_similarity,
        beta=wanted.beta,
        seed=wanted.seed + number,
    )
    row = Round(ls_project_id=project_id, number=number, settings=wanted.model_dump(mode="json"))
    with runtime.sessions.begin() as session:
        lock(session, f"round of project {project_id}")
        _write(session, row, picks, candidates, hardness)
    return row


def _write(
    session: Session,
    row: Round,
    picks: Sequence[sampling.Pick],
    candidates: Sequence[Candidate],
    hardness: Floats,
) -> None:
    # The choice took time, and some of its tasks may have been labelled or deleted meanwhile.
    still = tasks.unlabelled(session, row.ls_project_id)
    picks = [pick for pick in picks if candidates[pick.index].task_id in still]
    if not picks:
        raise NotEnoughDataError(
            f"Every task of project {row.ls_project_id} was labelled meanwhile; "
            "add tasks and try again."
        )
    session.add(row)
    session.flush()
    session.add_all(
        RoundItem(
            round_id=row.id,
            task_id=candidates[pick.index].task_id,
            rank=rank,
            reason=pick.reason,
            hardness=pick.hardness,
            stratum=pick.stratum,
        )
        for rank, pick in enumerate(picks)
    )
    tasks.note_hardness(
        session,
        {
            candidate.task_id: float(value)
            for candidate, value in zip(candidates, hardness, strict=True)
            if np.isfinite(value)
        },
    )
    tasks.queue(session, row.ls_project_id, [candidates[pick.index].task_id for pick in picks])
    log.info("Round %d of project %d has %d tasks.", row.number, row.ls_project_id, len(picks))


def _candidates(session: Session, project_id: int, model: SegNext) -> list[Candidate]:
    """Tasks with an embedding of this encoder: the unlabelled ones, and the labelled ones, whose
    near-duplicates a round must not contain."""
    found = embeddings.vectors_of_tasks(
        session,
        project_id,
        (*tasks.WAITING, "accepted"),
        model.encoder_fingerprint,
        model.preprocess_id,
    )
    return [
        Candidate(task_id, status, image_id, sha256, np.frombuffer(vector, dtype=np.float32))
        for task_id, status, image_id, sha256, vector in found
    ]


def _effort_by_image(
    costs: Sequence[regions.Cost], candidates: Sequence[Candidate], vectors: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Vectors float [M, C] and efforts float [M] in [0, 1] of the labelled images."""
    place = {candidate.image_id: index for index, candidate in enumerate(candidates)}
    costs = [cost for cost in costs if cost.image_id in place]

    def column(name: str) -> Floats:
        return np.array([getattr(cost, name) for cost in costs], dtype=np.float64)

    efforts = signals.effort(
        column("clicks"), column("seconds"), column("first_iou"), column("last_iou")
    )
    by_image: dict[int, list[float]] = {}
    for cost, value in zip(costs, efforts, strict=True):
        by_image.setdefault(place[cost.image_id], []).append(float(value))
    rows = list(by_image)
    return vectors[rows], np.array([np.mean(by_image[row]) for row in rows], dtype=np.float64)


@dataclass(frozen=True)
class _Prober:
    embeddings: Embeddings
    model: SegNext
    seed: int
    progress: Progress

    def run(
        self, pool: Sequence[Candidate], vectors: npt.NDArray[np.float32]
    ) -> tuple[Floats, Floats]:
        """Disagreement and boundary entropy of each image of the pool, both float [N]."""
        n = len(pool)
        chosen = np.random.default_rng(self.seed).permutation(n)[:PROBED]
        found = np.full((2, n), np.nan)
        self.progress(0, len(chosen))
        for done, index in enumerate(chosen.tolist(), start=1):
            try:
                embedding = self.embeddings.get(pool[index].image_id, self.model)
                seen = signals.probe(self.model, embedding, int(pool[index].sha256[:8], 16))
            except MaskloopError as error:
                # One lost image must not stop the round; it gets the values of its neighbours.
                log.warning("Task %d is not probed: %s", pool[index].task_id, error)
            else:
                found[:, index] = seen.disagreement, seen.boundary_entropy
            self.progress(done, len(chosen))
        known = np.isfinite(found[0])
        for row in found:
            row[~known] = signals.spread(vectors[known], row[known], vectors[~known])
        return found[0], found[1]


def _hardness(
    pool: Sequence[Candidate],
    vectors: npt.NDArray[np.float32],
    labelled: tuple[npt.NDArray[np.float32], Floats],
    prober: _Prober,
) -> Floats:
    disagreement, entropy = prober.run(pool, vectors)
    return signals.combine(
        {
            "disagreement": disagreement,
            "boundary entropy": entropy,
            "effort": signals.spread(*labelled, vectors),
        }
    )
