"""Reads everything that FiftyOne shows of an image from SQL."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from pipeline.record import embeddings, images, interactions, regions, rounds, tasks
from pipeline.record.interactions import Shown
from pipeline.record.regions import Accepted
from pipeline.record.tables import Image, Task

BATCH = 200  # images read at once; their masks are in memory meanwhile


@dataclass(frozen=True)
class ImageRecord:
    """One image that at least one task shows. ``vector`` is float32 [C] as bytes."""

    image: Image
    task: Task
    round: int | None
    round_rank: int | None
    reason: str | None
    vector: bytes | None
    accepted: tuple[Accepted, ...]
    predicted: tuple[Shown, ...]

    @property
    def digest(self) -> str:
        """SHA-256, hex, of everything the sample shows; it changes only when the sample must."""
        image, task = self.image, self.task
        parts = (
            (image.sha256, image.width, image.height, image.split),
            (task.ls_project_id, task.ls_task_id, task.status, task.hardness),
            (self.round, self.round_rank, self.reason, self.vector),
            tuple(_of_accepted(mask) for mask in self.accepted),
            self.predicted,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def _of_accepted(mask: Accepted) -> tuple[object, ...]:
    region, effort = mask.region, mask.effort
    cost = effort and (effort.clicks, effort.seconds, effort.first_iou, effort.last_iou)
    return (region.id, region.ls_region_id, region.label, region.mask_sha256, mask.annotator, cost)


def read_records(sessions: sessionmaker[Session], wanted: Sequence[int]) -> Iterator[ImageRecord]:
    """The records of ``wanted`` images, in that order; an image without a task is left out.

    Each batch is read in its own session, which is closed before the batch is used.
    """
    with sessions() as session:
        kind = embeddings.kind_to_show(session)
    for start in range(0, len(wanted), BATCH):
        with sessions() as session:
            batch = _read_batch(session, wanted[start : start + BATCH], kind)
        yield from batch


def _read_batch(
    session: Session, wanted: Sequence[int], kind: tuple[str, str] | None
) -> list[ImageRecord]:
    shown = images.by_id(session, wanted)
    speaking = tasks.speaking_for(session, wanted)
    places = rounds.places(session, [task.id for task in speaking.values()])
    vectors = {} if kind is None else embeddings.vectors(session, wanted, *kind)
    accepted: dict[int, list[Accepted]] = defaultdict(list)
    for mask in regions.accepted_on(session, wanted):
        accepted[mask.region.image_id].append(mask)
    predicted: dict[int, list[Shown]] = defaultdict(list)
    for answer in interactions.shown_on(session, wanted):
        predicted[answer.image_id].append(answer)
    records = []
    for image_id in wanted:
        if image_id not in shown or image_id not in speaking:
            continue
        task = speaking[image_id]
        number, rank, reason = places.get(task.id, (None, None, None))
        records.append(
            ImageRecord(
                image=shown[image_id],
                task=task,
                round=number,
                round_rank=rank,
                reason=reason,
                vector=vectors.get(image_id),
                accepted=tuple(accepted[image_id]),
                predicted=tuple(predicted[image_id]),
            )
        )
    return records
