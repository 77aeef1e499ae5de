"""The next round of labelling: from the pool of a project to rows of ``round`` and ``round_item``.

Every number the choice rests on is free: vectors that encoding left behind, a few decodes, and
what labelled images cost. Without any label, and without effort rows, the same code runs on fewer
signals; that is round 0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from model.progress import Progress, silent
from pipeline.errors import NotEnoughDataError
from pipeline.record.engine import lock
from pipeline.record.tables import (
    Annotation,
    Effort,
    Embedding,
    Image,
    Region,
    Round,
    RoundItem,
    Task,
)
from pipeline.record.tables.task import TaskStatus
from pipeline.selection import hardness as signals
from pipeline.selection import sampling as selection
from pipeline.settings import Settings

if TYPE_CHECKING:
    from model.network.segnext import SegNext
    from pipeline.embeddings.tiers import Embeddings

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

# Probing decodes a handful of times for each image; in a larger pool a fair sample is probed and
# the rest is given its neighbours' values, so a round takes minutes at any size.
PROBED = 300
BETA_GROWTH = 5  # later rounds trust hardness more, up to this many times the setting
# Not labelled yet. What an earlier round left undone is chosen from again: Label Studio follows
# the newest round only, and would hand the rest out last.
WAITING: tuple[TaskStatus, ...] = ("pool", "queued")


@dataclass(frozen=True)
class Candidate:
    """A task with an encoded image. ``vector`` is float32 [C] of length 1."""

    task_id: int
    status: TaskStatus
    image_id: int
    sha256: str
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Cost:
    """What one accepted region of an image cost; None where it is not known."""

    image_id: int
    clicks: int
    seconds: float | None
    first_iou: float | None
    last_iou: float | None


def make_round(
    sessions: sessionmaker[Session],
    embeddings: Embeddings,
    model: SegNext,
    settings: Settings,
    project_id: int,
    *,
    size: int | None = None,
    progress: Progress = silent,
) -> Round:
    """Choose the next round of a project, write its rows and queue its tasks.

    What an earlier round left undone waits again, beside the rest of the pool. An earlier round
    that was never written to Label Studio is dropped: nobody has seen it.

    Args:
        model: the serving model; its embeddings and answers are what the choice looks at.
        size: tasks wanted; None: ``settings.selection.size``.
        progress: told how many images are probed of how many.

    Returns:
        The new round, with fewer tasks only when the pool is smaller.

    Raises:
        NotEnoughDataError: no task of the project waits with an encoded image.
    """
    with sessions.begin() as session:
        _drop_unwritten(session, project_id)
        candidates = _candidates(session, project_id, model)
        costs = _costs(session, project_id)
    waiting = np.array([candidate.status in WAITING for candidate in candidates], dtype=bool)
    if not waiting.any():
        raise NotEnoughDataError(
            f"No unlabelled task of project {project_id} has an encoded image; "
            "add tasks in Label Studio, or run `maskloop encode`."
        )
    vectors = np.stack([candidate.vector for candidate in candidates])
    hardness = np.full(len(candidates), np.nan)
    hardness[waiting] = _hardness(
        [candidate for candidate in candidates if candidate.status in WAITING],
        vectors[waiting],
        _effort_by_image(costs, candidates, vectors),
        _Prober(embeddings, model, settings.selection.seed, progress),
    )
    wanted = settings.selection.model_copy(update={"size": size} if size else {})
    with sessions() as session:
        number = _next_number(session, project_id)
        still = _waiting(session, project_id)
    # Outside any transaction that writes: clustering a large pool takes seconds, and on SQLite
    # every click's log row would wait for it.
    wanted = wanted.model_copy(update={"beta": wanted.beta * min(number + 1, BETA_GROWTH)})
    picks = selection.select(
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
    with sessions.begin() as session:
        lock(session, f"round of project {project_id}")
        _write(session, row, picks, candidates, hardness)
    return row


def _drop_unwritten(session: Session, project_id: int) -> None:
    """Forget rounds that Label Studio was never told of."""
    rounds = select(Round.id).where(Round.ls_project_id == project_id, Round.written_at.is_(None))
    for table, column in ((RoundItem, RoundItem.round_id), (Round, Round.id)):
        gone = delete(table).where(column.in_(rounds))
        session.execute(gone.execution_options(synchronize_session=False))


def _write(
    session: Session,
    row: Round,
    picks: Sequence[selection.Pick],
    candidates: Sequence[Candidate],
    hardness: Floats,
) -> None:
    # Choosing took its time: a task somebody labelled or deleted since then waits no longer.
    still = _waiting(session, row.ls_project_id)
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
    ranked = [
        {"id": candidate.task_id, "hardness": float(value)}
        for candidate, value in zip(candidates, hardness, strict=True)
        if np.isfinite(value)
    ]
    if ranked:
        session.execute(update(Task), ranked)
    left = update(Task).where(Task.ls_project_id == row.ls_project_id, Task.status == "queued")
    session.execute(left.values(status="pool"))
    queued = [candidates[pick.index].task_id for pick in picks]
    session.execute(update(Task).where(Task.id.in_(queued)).values(status="queued"))
    log.info("round %d of project %d: %d tasks", row.number, row.ls_project_id, len(picks))


def _waiting(session: Session, project_id: int) -> set[int]:
    """Ids of the task rows that nobody labelled yet."""
    waiting = select(Task.id).where(Task.ls_project_id == project_id, Task.status.in_(WAITING))
    return set(session.scalars(waiting))


def _next_number(session: Session, project_id: int) -> int:
    last = session.scalar(select(func.max(Round.number)).where(Round.ls_project_id == project_id))
    return 0 if last is None else last + 1


def _candidates(session: Session, project_id: int, model: SegNext) -> list[Candidate]:
    """Tasks with an embedding of this encoder: what waits, and what a round must not repeat."""
    rows = session.execute(
        select(Task.id, Task.status, Image.id, Image.sha256, Embedding.vector)
        .join(Image, Image.id == Task.image_id)
        .join(Embedding, Embedding.image_id == Image.id)
        .where(
            Task.ls_project_id == project_id,
            Task.status.in_((*WAITING, "accepted")),
            Embedding.encoder == model.encoder_fingerprint,
            Embedding.preprocess == model.preprocess_id,
        )
        .order_by(Task.id)
    )
    return [
        Candidate(task_id, status, image_id, sha256, np.frombuffer(vector, dtype=np.float32))
        for task_id, status, image_id, sha256, vector in rows
    ]


def _costs(session: Session, project_id: int) -> list[Cost]:
    rows = session.execute(
        select(Region.image_id, Effort.clicks, Effort.seconds, Effort.first_iou, Effort.last_iou)
        .join(Effort, Effort.region_id == Region.id)
        .join(Annotation, Annotation.id == Region.annotation_id)
        .join(Task, Task.id == Annotation.task_id)
        .where(Task.ls_project_id == project_id, Annotation.stands())
        .order_by(Region.id)
    )
    return [Cost(*row) for row in rows]


def _effort_by_image(
    costs: Sequence[Cost], candidates: Sequence[Candidate], vectors: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Vectors float [M, C] and efforts float [M] in [0, 1] of the labelled images."""
    place = {candidate.image_id: index for index, candidate in enumerate(candidates)}
    costs = [cost for cost in costs if cost.image_id in place]

    def column(name: str) -> Floats:
        return np.array([getattr(cost, name) for cost in costs], dtype=np.float64)

    regions = signals.effort(
        column("clicks"), column("seconds"), column("first_iou"), column("last_iou")
    )
    by_image: dict[int, list[float]] = {}
    for cost, value in zip(costs, regions, strict=True):
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
                # One lost image must not cost the round; its neighbours speak for it.
                log.warning("task %d is not probed: %s", pool[index].task_id, error)
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
