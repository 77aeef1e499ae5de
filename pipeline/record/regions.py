"""Rows of accepted regions, and of the effort that each cost its annotator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVarTuple

from sqlalchemy import Float, Select, cast, func, select
from sqlalchemy.orm import Session

from pipeline.record.tables import Annotation, Effort, Image, Region, Task
from pipeline.record.tables.image import Split

Columns = TypeVarTuple("Columns")


@dataclass(frozen=True)
class Accepted:
    """One region that an annotator accepted, with its effort where that is known."""

    region: Region
    annotator: str | None
    effort: Effort | None


@dataclass(frozen=True)
class Content:
    """What an accepted region shows: equal for two with the same image, label and mask.

    Attributes:
        image_sha256: of the image file, in hex.
        mask_sha256: of the region's mask as it is stored, in hex.
        split: the side of the split on which the image lies.
    """

    image_sha256: str
    label: str
    mask_sha256: str
    split: Split


@dataclass(frozen=True)
class Cost:
    """The effort that one accepted region of an image cost; None where a value is not known."""

    image_id: int
    clicks: int
    seconds: float | None
    first_iou: float | None
    last_iou: float | None


def of_annotation(session: Session, annotation_id: int) -> dict[str, Region]:
    """The regions of an annotation row, by Label Studio's region id."""
    rows = session.scalars(select(Region).where(Region.annotation_id == annotation_id))
    return {region.ls_region_id: region for region in rows}


def any_elsewhere(session: Session, annotation_id: int, image_id: int | None) -> bool:
    """Whether a region of the annotation lies on an image other than ``image_id``."""
    elsewhere = select(Region.id).where(
        Region.annotation_id == annotation_id, Region.image_id.is_distinct_from(image_id)
    )
    return session.scalar(elsewhere.limit(1)) is not None


def write_effort(session: Session, region: Region, effort: Effort | None) -> None:
    """Write the effort of a flushed region; None, for one made without the model, removes it."""
    known = session.get(Effort, region.id)
    if effort is None:
        if known is not None:
            session.delete(known)
        return
    effort.region_id = region.id
    session.merge(effort)


def count_accepted(session: Session, since: datetime | None = None) -> int:
    """How many regions were accepted or changed after ``since``; None counts all of them.

    When one region of an annotation changed, all regions of that annotation count.
    """
    statement = _standing(select(func.count(Region.id)))
    if since is not None:
        statement = statement.where(Annotation.seen_at > since)
    return session.scalar(statement) or 0


def first_accepted_at(session: Session) -> datetime | None:
    """When the oldest region that still counts was accepted."""
    return session.scalar(_standing(select(func.min(Region.created_at))))


def contents(session: Session) -> list[Content]:
    """What every accepted region shows, without the masks themselves."""
    columns = select(Image.sha256, Region.label, Region.mask_sha256, Image.split)
    rows = session.execute(_standing(columns.join(Region, Region.image_id == Image.id)))
    return [Content(*row) for row in rows]


def with_contents(session: Session) -> list[tuple[Region, Content]]:
    """Every accepted region, mask included, and what it shows. One statement reads both, so they
    belong together even while an annotator corrects the region."""
    rows = session.execute(
        _standing(
            select(Region, Image.sha256, Image.split).join(Image, Image.id == Region.image_id)
        )
    )
    return [
        (region, Content(image, region.label, region.mask_sha256, split))
        for region, image, split in rows
    ]


def costs(session: Session, project_id: int) -> list[Cost]:
    """The effort of each accepted region of a project where it is known, oldest region first."""
    rows = session.execute(
        select(Region.image_id, Effort.clicks, Effort.seconds, Effort.first_iou, Effort.last_iou)
        .join(Effort, Effort.region_id == Region.id)
        .join(Annotation, Annotation.id == Region.annotation_id)
        .join(Task, Task.id == Annotation.task_id)
        .where(Task.ls_project_id == project_id, Annotation.stands())
        .order_by(Region.id)
    )
    return [Cost(*row) for row in rows]


def accepted_on(session: Session, image_ids: Sequence[int]) -> list[Accepted]:
    """The accepted regions on these images, oldest first, masks included."""
    rows = session.execute(
        select(Region, Annotation.annotator, Effort)
        .join(Annotation, Annotation.id == Region.annotation_id)
        .outerjoin(Effort, Effort.region_id == Region.id)
        .where(Region.image_id.in_(image_ids), Annotation.stands())
        .order_by(Region.id)
    )
    return [Accepted(region, annotator, effort) for region, annotator, effort in rows]


def ids_on_task(session: Session, task_id: int) -> set[str]:
    """Label Studio's ids of the regions of a task's annotations that are not deleted."""
    statement = (
        select(Region.ls_region_id)
        .join(Annotation, Annotation.id == Region.annotation_id)
        .where(Annotation.task_id == task_id, Annotation.deleted.is_(False))
    )
    return set(session.scalars(statement))


def mean_effort(session: Session) -> tuple[float | None, float | None]:
    """Mean clicks and mean seconds of the accepted regions; None while there are none."""
    row = session.execute(
        select(func.avg(cast(Effort.clicks, Float)), func.avg(Effort.seconds))
    ).one()
    return row[0], row[1]


def _standing(statement: Select[*Columns]) -> Select[*Columns]:
    """``statement``, limited to regions of annotations whose masks count."""
    return statement.join(Annotation, Annotation.id == Region.annotation_id).where(
        Annotation.stands()
    )
