"""Predictions from the log, for a batch of tasks or for a task that was just opened."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session as DatabaseSession

from backend.click.reply import json_bytes
from backend.process.services import Services
from backend.request.question import Question
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import output_region
from pipeline.labelstudio.types import PredictionJson, RegionJson
from pipeline.masks.coded import CodedMask
from pipeline.record import interactions, regions, versions
from pipeline.record.tables import Image, Interaction

MOST_BYTES_FACTOR = 10  # a batch may be this many times as large as one reply


def stored_answers(services: Services, question: Question) -> list[PredictionJson | list[Any]]:
    """One entry for each task: the regions people accepted, else the last reply, else ``[]``.

    The last is an empty list because Label Studio would store a prediction without regions and
    show it as an empty tab. No mask is computed, so even a thousand tasks take only a moment.

    Raises:
        LabelConfigError: the project's labelling config lacks what masks need.
    """
    config = question.config
    budget = services.settings.backend.max_reply_bytes * MOST_BYTES_FACTOR
    wanted = [view.id for view in question.tasks]
    with services.runtime.sessions() as session:
        known = interactions.answered_tasks(session, question.project_id)
        names = versions.names(session)
    answers: list[PredictionJson | list[Any]] = []
    for number in wanted:
        rows: list[tuple[Interaction, Image]] = []
        if number in known:
            with services.runtime.sessions() as session:
                rows = _rows(session, known[number])
        budget -= sum(json_bytes(row.rle) for row, _ in rows)
        fits = budget > 0
        shown = [_region(services, config, row, image) for row, image in rows if fits]
        answers.append(_prediction(shown, names[rows[-1][0].model_version_id]) if shown else [])
    return answers


def _rows(session: DatabaseSession, task_id: int) -> list[tuple[Interaction, Image]]:
    """The newest reply of each accepted region of a task; without any, the newest reply of all."""
    by_region = interactions.newest_by_region(session, task_id)
    accepted = regions.ids_on_task(session, task_id)
    ids = sorted({by_region[name] for name in accepted if name in by_region})
    if not ids and by_region:
        ids = [max(by_region.values())]
    rows = interactions.with_images(session, ids)
    return [(row, image) for row, image in rows if row.score > 0]


def _region(services: Services, config: LabelConfig, row: Interaction, image: Image) -> RegionJson:
    return services.sent_regions.region(
        row.id,
        config,
        lambda: output_region(
            region_id=row.region_id,
            mask=CodedMask.of_rle(row.rle, image.height, image.width),
            label=row.label,
            config=config,
            score=row.score,
            tolerance=services.settings.label_studio.outline_tolerance,
        ),
        scored=True,
    )


def _prediction(shown: list[RegionJson], version: str) -> PredictionJson:
    return {
        "result": shown,
        "score": min(region["score"] for region in shown),  # The worst region decides.
        "model_version": version,
    }
