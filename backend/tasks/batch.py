"""Answers for nobody who waits: a batch of tasks, or a task just opened. From the log, at once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session as DatabaseSession

from backend.click.reply import json_bytes
from backend.click.request import Question
from backend.tasks.services import Services
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.regions import output_region
from pipeline.record.tables import Annotation, Image, Interaction, ModelVersion, Region, Task

MOST_BYTES_FACTOR = 10  # a batch may be this many times as large as one reply

Prediction = dict[str, Any]


def stored_answers(services: Services, question: Question) -> list[Prediction | list[Any]]:
    """One entry for each task: the regions people accepted, else the last reply; else ``[]``.

    An empty list, because Label Studio would store a prediction without regions and show it as
    an empty tab. Nothing is computed, so a thousand tasks take a moment.

    Raises:
        LabelConfigError: the project's labelling config lacks what masks need.
    """
    config = read_label_config(question.label_config)
    budget = services.settings.backend.max_reply_bytes * MOST_BYTES_FACTOR
    with services.sessions() as database:
        wanted = [view.id for view in question.tasks]
        known = _task_ids(database, question.project_id, wanted)
        version = {row.id: row.name for row in database.scalars(select(ModelVersion))}
        answers: list[Prediction | list[Any]] = []
        for number in wanted:
            rows = _rows(database, known[number]) if number in known else []
            budget -= sum(json_bytes(row.rle) for row, _ in rows)
            fits = budget > 0
            regions = [_region(services, config, row, image) for row, image in rows if fits]
            answers.append(
                _prediction(regions, version[rows[-1][0].model_version_id]) if regions else []
            )
    return answers


def _task_ids(database: DatabaseSession, project_id: int, wanted: list[int]) -> dict[int, int]:
    """Row ids by Label Studio's, of those tasks that have a reply."""
    answered = (
        select(Task.ls_task_id, Task.id)
        .where(Task.ls_project_id == project_id)
        .where(select(Interaction.id).where(Interaction.task_id == Task.id).exists())
    )
    every = {row.ls_task_id: row.id for row in database.execute(answered)}
    return {number: every[number] for number in wanted if number in every}


def _rows(database: DatabaseSession, task_id: int) -> list[tuple[Interaction, Image]]:
    """The newest reply of each accepted region of a task; the newest of all when there is none."""
    newest = (
        select(func.max(Interaction.id).label("id"), Interaction.region_id)
        .join(Task, (Task.id == Interaction.task_id) & (Task.image_id == Interaction.image_id))
        .where(Interaction.task_id == task_id)
        .group_by(Interaction.region_id)
    )
    by_region: dict[str, int] = defaultdict(int)
    for row in database.execute(newest):
        by_region[row.region_id] = row.id
    accepted = database.scalars(
        select(Region.ls_region_id)
        .join(Annotation, Annotation.id == Region.annotation_id)
        .where(Annotation.task_id == task_id, Annotation.deleted.is_(False))
    )
    ids = sorted({by_region[name] for name in accepted if name in by_region})
    if not ids and by_region:
        ids = [max(by_region.values())]
    rows = database.execute(
        select(Interaction, Image)
        .join(Image, Image.id == Interaction.image_id)
        .where(Interaction.id.in_(ids))
        .order_by(Interaction.id)
    )
    return [(row[0], row[1]) for row in rows if row[0].score > 0]


def _region(
    services: Services, config: LabelConfig, row: Interaction, image: Image
) -> dict[str, Any]:
    return services.sent.region(
        row.id,
        config,
        lambda: output_region(
            region_id=row.region_id,
            rle=row.rle,
            height=image.height,
            width=image.width,
            label=row.label,
            config=config,
            score=row.score,
            tolerance=services.settings.label_studio.outline_tolerance,
        ),
        scored=True,
    )


def _prediction(regions: list[dict[str, Any]], version: str) -> Prediction:
    return {
        "result": regions,
        "score": min(region["score"] for region in regions),  # low: look here first
        "model_version": version,
    }
