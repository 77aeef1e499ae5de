"""Rows of the click log: each reply of the model with the prompts it answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy import delete as remove
from sqlalchemy.orm import Session, defer

from pipeline.record.tables import Image, Interaction, ModelVersion, Region, Task


@dataclass(frozen=True)
class Logged:
    """One reply of the log without its pixels."""

    id: int
    region_id: str
    label: str
    prompts: list[dict[str, Any]]
    version_id: int
    at: datetime


@dataclass(frozen=True)
class Shown:
    """The newest reply for one region, as FiftyOne shows it; its mask stays in the log."""

    image_id: int
    interaction_id: int
    region_id: str
    label: str
    score: float
    prompts: list[dict[str, Any]]
    version: str
    accepted: bool  # it became an accepted region


def get(session: Session, interaction_id: int) -> Interaction:
    """One row with its pixels. The row must exist, or SQLAlchemy raises NoResultFound."""
    return session.get_one(Interaction, interaction_id)


def newest(session: Session, task_id: int, image_id: int, limit: int) -> list[Logged]:
    """The newest replies on a task's image, newest first."""
    statement = _logged().where(Interaction.task_id == task_id, Interaction.image_id == image_id)
    rows = session.execute(statement.order_by(Interaction.id.desc()).limit(limit))
    return [Logged(*row) for row in rows]


def regions_by_prompt(session: Session, task_id: int, image_id: int) -> dict[str, set[str]]:
    """The regions that each prompt on a task's image was ever used for, by the prompt's id."""
    rows = session.execute(
        select(Interaction.region_id, Interaction.prompts).where(
            Interaction.task_id == task_id, Interaction.image_id == image_id
        )
    )
    found: dict[str, set[str]] = defaultdict(set)
    for region_id, prompts in rows:
        for prompt in prompts:
            found[prompt["id"]].add(region_id)
    return found


def of_regions(
    session: Session, task_id: int, region_ids: Collection[str]
) -> dict[str, list[Interaction]]:
    """All replies for these regions of a task, without their probability, oldest first, by the
    region's id."""
    rows = session.scalars(
        select(Interaction)
        .options(defer(Interaction.probability))  # It is large, and the effort needs none of it.
        .where(Interaction.task_id == task_id, Interaction.region_id.in_(region_ids))
        .order_by(Interaction.created_at, Interaction.id)
    )
    found: dict[str, list[Interaction]] = defaultdict(list)
    for row in rows:
        found[row.region_id].append(row)
    return found


def answered_tasks(session: Session, project_id: int) -> dict[int, int]:
    """Ids of the task rows of a project that have a reply, by Label Studio's number."""
    answered = (
        select(Task.ls_task_id, Task.id)
        .where(Task.ls_project_id == project_id)
        .where(select(Interaction.id).where(Interaction.task_id == Task.id).exists())
    )
    return {ls_task_id: task_id for ls_task_id, task_id in session.execute(answered)}


def newest_by_region(session: Session, task_id: int) -> dict[str, int]:
    """Id of the newest reply for each region on the image that a task shows now."""
    statement = (
        select(Interaction.region_id, func.max(Interaction.id))
        .join(Task, (Task.id == Interaction.task_id) & (Task.image_id == Interaction.image_id))
        .where(Interaction.task_id == task_id)
        .group_by(Interaction.region_id)
    )
    return {region_id: newest_id for region_id, newest_id in session.execute(statement)}


def with_images(session: Session, ids: Sequence[int]) -> list[tuple[Interaction, Image]]:
    """Rows with their pixels and their images, oldest first."""
    rows = session.execute(
        select(Interaction, Image)
        .join(Image, Image.id == Interaction.image_id)
        .where(Interaction.id.in_(ids))
        .order_by(Interaction.id)
    )
    return [(row[0], row[1]) for row in rows]


def shown_on(session: Session, image_ids: Sequence[int]) -> list[Shown]:
    """The newest reply for each region on these images, of tasks that are not deleted, oldest
    first."""
    latest = (
        select(func.max(Interaction.id))
        .where(Interaction.image_id.in_(image_ids))
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
        .where(Interaction.id.in_(latest), Task.status != "deleted")
        .order_by(Interaction.id)
    )
    return [Shown(*row) for row in rows]


def superseded_before(session: Session, moment: datetime) -> list[int]:
    """Ids of replies from before ``moment`` that nothing needs any more.

    They belong to tasks that are accepted or deleted. The first and the last reply of each region
    stay: they say how long the region took and what the annotator saw last.
    """
    needed = (
        select(func.min(Interaction.id))
        .group_by(Interaction.task_id, Interaction.region_id)
        .union(
            select(func.max(Interaction.id)).group_by(Interaction.task_id, Interaction.region_id),
            select(Region.interaction_id).where(Region.interaction_id.is_not(None)),
        )
    )
    statement = (
        select(Interaction.id)
        .join(Task, Task.id == Interaction.task_id)
        .where(
            Interaction.created_at < moment,
            Task.status.in_(("accepted", "deleted")),
            Interaction.id.not_in(needed),
        )
    )
    return list(session.scalars(statement))


def delete(session: Session, ids: Collection[int]) -> None:
    """Remove replies."""
    session.execute(remove(Interaction).where(Interaction.id.in_(ids)))


def count(session: Session) -> int:
    """How many replies were given."""
    return session.scalar(select(func.count(Interaction.id))) or 0


def newest_milliseconds(session: Session, limit: int) -> list[float]:
    """How long the newest replies took, in milliseconds, newest first."""
    statement = select(Interaction.milliseconds).order_by(Interaction.id.desc()).limit(limit)
    return list(session.scalars(statement))


def _logged() -> Select[int, str, str, list[Any], int, datetime]:
    return select(
        Interaction.id,
        Interaction.region_id,
        Interaction.label,
        Interaction.prompts,
        Interaction.model_version_id,
        Interaction.created_at,
    )
