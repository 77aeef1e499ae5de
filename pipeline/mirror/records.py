"""What SQL knows of one image, gathered for its sample in FiftyOne."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pipeline.record.tables import (
    Annotation,
    Effort,
    Embedding,
    Image,
    Interaction,
    ModelVersion,
    Region,
    Round,
    RoundItem,
    Task,
)
from pipeline.record.tables.task import TaskStatus

BATCH = 200  # images read at once; their masks are in memory meanwhile
# Of several tasks that show one image, the one that has come furthest speaks for it.
PROGRESS_ORDER: tuple[TaskStatus, ...] = ("accepted", "queued", "skipped", "pool")


@dataclass(frozen=True)
class AcceptedMask:
    """A region that an annotator accepted. ``mask`` is a 1-bit PNG at the image's size."""

    region_id: int
    ls_region_id: str
    label: str
    mask: bytes
    annotator: str | None
    clicks: int | None
    seconds: float | None
    first_iou: float | None
    last_iou: float | None


@dataclass(frozen=True)
class PredictedMask:
    """The model's latest answer for one region. Its mask stays in ``interaction`` until needed."""

    interaction_id: int
    ls_region_id: str
    label: str
    score: float
    prompts: int
    model_version: str
    accepted: bool  # became an accepted region


@dataclass(frozen=True)
class ImageRecord:
    """One image that at least one task shows. ``vector`` is float32 [C] as bytes."""

    image: Image
    task: Task
    round: int | None
    round_rank: int | None
    reason: str | None
    vector: bytes | None
    accepted: tuple[AcceptedMask, ...]
    predicted: tuple[PredictedMask, ...]

    @property
    def digest(self) -> str:
        """Changes when, and only when, the sample has to; hex."""
        image, task = self.image, self.task
        parts = (
            (image.sha256, image.width, image.height, image.split),
            (task.ls_project_id, task.ls_task_id, task.status, task.hardness),
            (self.round, self.round_rank, self.reason, self.vector),
            self.accepted,
            self.predicted,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def image_ids(session: Session) -> list[int]:
    """Images that some task shows, oldest first."""
    shown = select(Task.image_id).where(Task.status != "deleted")
    return list(session.scalars(select(Image.id).where(Image.id.in_(shown)).order_by(Image.id)))


def read_records(session: Session, wanted: Sequence[int]) -> Iterator[ImageRecord]:
    """The records of ``wanted`` images, in that order; one whose task is gone is left out."""
    encoder = _encoder(session)
    for start in range(0, len(wanted), BATCH):
        yield from _read_batch(session, wanted[start : start + BATCH], encoder)


def latest_rounds(session: Session) -> list[tuple[int, int]]:
    """(project, number) of the newest round of each project."""
    newest = select(Round.ls_project_id, func.max(Round.number)).group_by(Round.ls_project_id)
    return [(project, number) for project, number in session.execute(newest)]


def _read_batch(
    session: Session, wanted: Sequence[int], encoder: tuple[str, str] | None
) -> Iterator[ImageRecord]:
    images = {i.id: i for i in session.scalars(select(Image).where(Image.id.in_(wanted)))}
    tasks = _tasks(session, wanted)
    rounds = _rounds(session, [task.id for task in tasks.values()])
    vectors = _vectors(session, wanted, encoder)
    accepted = _accepted(session, wanted)
    predicted = _predicted(session, wanted)
    for image_id in wanted:
        if image_id not in images or image_id not in tasks:
            continue
        task = tasks[image_id]
        number, rank, reason = rounds.get(task.id, (None, None, None))
        yield ImageRecord(
            image=images[image_id],
            task=task,
            round=number,
            round_rank=rank,
            reason=reason,
            vector=vectors.get(image_id),
            accepted=tuple(accepted[image_id]),
            predicted=tuple(predicted[image_id]),
        )


def _tasks(session: Session, wanted: Sequence[int]) -> dict[int, Task]:
    found: dict[int, Task] = {}
    statement = select(Task).where(Task.image_id.in_(wanted), Task.status != "deleted")
    for task in session.scalars(statement.order_by(Task.id)):
        assert task.image_id is not None
        other = found.get(task.image_id)
        if other is None or _rank(task) < _rank(other):
            found[task.image_id] = task
    return found


def _rank(task: Task) -> int:
    return PROGRESS_ORDER.index(task.status)


def _rounds(session: Session, task_ids: Sequence[int]) -> dict[int, tuple[int, int, str]]:
    """Round number, rank and reason by task, of the latest round that holds it."""
    rows = session.execute(
        select(RoundItem.task_id, Round.number, RoundItem.rank, RoundItem.reason)
        .join(Round, Round.id == RoundItem.round_id)
        .where(RoundItem.task_id.in_(task_ids))
        .order_by(Round.number)
    )
    return {task_id: (number, rank, reason) for task_id, number, rank, reason in rows}


def _encoder(session: Session) -> tuple[str, str] | None:
    """Encoder and preprocessing whose vectors are shown: all samples need the same kind."""
    kinds = Counter[tuple[str, str]]()
    for encoder, preprocess, count in session.execute(
        select(Embedding.encoder, Embedding.preprocess, func.count()).group_by(
            Embedding.encoder, Embedding.preprocess
        )
    ):
        kinds[(encoder, preprocess)] = count
    serving = session.scalar(select(ModelVersion.encoder).where(ModelVersion.status == "serving"))
    ours = {kind: count for kind, count in kinds.items() if kind[0] == serving} or kinds
    return max(ours, key=lambda kind: (ours[kind], kind)) if ours else None


def _vectors(
    session: Session, wanted: Sequence[int], encoder: tuple[str, str] | None
) -> dict[int, bytes]:
    if encoder is None:
        return {}
    rows = session.execute(
        select(Embedding.image_id, Embedding.vector).where(
            Embedding.image_id.in_(wanted),
            Embedding.encoder == encoder[0],
            Embedding.preprocess == encoder[1],
        )
    )
    return {image_id: vector for image_id, vector in rows}


def _accepted(session: Session, wanted: Sequence[int]) -> dict[int, list[AcceptedMask]]:
    rows = session.execute(
        select(Region, Annotation.annotator, Effort)
        .join(Annotation, Annotation.id == Region.annotation_id)
        .outerjoin(Effort, Effort.region_id == Region.id)
        .where(Region.image_id.in_(wanted), Annotation.stands())
        .order_by(Region.id)
    )
    found: dict[int, list[AcceptedMask]] = defaultdict(list)
    for region, annotator, effort in rows:
        found[region.image_id].append(
            AcceptedMask(
                region_id=region.id,
                ls_region_id=region.ls_region_id,
                label=region.label,
                mask=region.mask,
                annotator=annotator,
                clicks=effort.clicks if effort else None,
                seconds=effort.seconds if effort else None,
                first_iou=effort.first_iou if effort else None,
                last_iou=effort.last_iou if effort else None,
            )
        )
    return found


def _predicted(session: Session, wanted: Sequence[int]) -> dict[int, list[PredictedMask]]:
    newest = (
        select(func.max(Interaction.id))
        .where(Interaction.image_id.in_(wanted))
        .group_by(Interaction.task_id, Interaction.region_id)
    )
    became = select(Region.id).where(Region.ls_region_id == Interaction.region_id).exists()
    rows = session.execute(
        select(
            Interaction.image_id,
            Interaction.id,
            Interaction.region_id,
            Interaction.label,
            Interaction.score,
            Interaction.prompts,
            ModelVersion.name,
            became,
        )
        .join(ModelVersion, ModelVersion.id == Interaction.model_version_id)
        .join(Task, Task.id == Interaction.task_id)
        .where(Interaction.id.in_(newest), Task.status != "deleted")
        .order_by(Interaction.id)
    )
    found: dict[int, list[PredictedMask]] = defaultdict(list)
    for image_id, interaction_id, region_id, label, score, prompts, version, accepted in rows:
        found[image_id].append(
            PredictedMask(
                interaction_id, region_id, label, score, len(prompts), version, bool(accepted)
            )
        )
    return found
