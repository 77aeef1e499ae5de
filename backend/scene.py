"""What is known when a click comes in: the image, the model, and what both said before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.context import Mark, Question, TaskView, prompt_of
from backend.services import Services
from backend.session import Probability, Reply, replies
from model.embedding import Embedding
from model.errors import MaskloopError
from model.prediction import Prediction
from model.segnext import SegNext
from pipeline.catalog import task_image, task_row
from pipeline.label_config import LabelConfig
from pipeline.masks import probability_from_png
from pipeline.regions import mask_of
from pipeline.tables import Image, Interaction, ModelVersion, Task


@dataclass(frozen=True, eq=False)
class Scene:
    """All that is known when a click comes in."""

    services: Services
    config: LabelConfig
    project_id: int
    view: TaskView
    task: Task
    image: Image
    version: ModelVersion
    model: SegNext
    embedding: Embedding
    log: list[Reply]

    def decode(self, marks: Sequence[Mark], mask: Probability | None) -> Prediction:
        with self.services.decoding:
            return self.model.decode(self.embedding, prompt_of(marks, mask))

    def probability(self, reply: Reply) -> Probability:
        """What the model answered then; the annotator's own edit of it where the draft has one."""
        with self.services.sessions() as database:
            row = database.get_one(Interaction, reply.id)
        kept = self.view.kept.get(reply.region_id)
        value = kept.get("value") if kept is not None else None
        if isinstance(value, Mapping) and value.get("rle") != list(row.rle):
            edited = drawn(kept)
            if edited is not None:
                return edited
        return probability_from_png(row.probability)


def set_scene(services: Services, question: Question, config: LabelConfig) -> Scene:
    """Find the image, its embedding, the model that serves, and the log of what was answered.

    Raises:
        UnknownRecordError, ImageSourceError, ImageError: the task has no image to be had.
    """
    view = question.tasks[0]
    url = view.url(config.image_field)
    with services.sessions.begin() as database:
        task_id = task_row(database, question.project_id, view.id, url).id
    # A second transaction, which only reads until the image is here: nobody waits for a download.
    with services.sessions.begin() as database:
        task = database.get_one(Task, task_id)
        image = task_image(database, services.store, services.source, task, services.settings)
    version, model = services.serving.current()
    with services.metrics.embedding_seconds.time():
        embedding = services.embeddings.get(image.id, model)
    with services.sessions() as database:
        log = replies(database, task.id, image.id)
    return Scene(
        services=services,
        config=config,
        project_id=question.project_id,
        view=view,
        task=task,
        image=image,
        version=version,
        model=model,
        embedding=embedding,
        log=log,
    )


def drawn(region: Any) -> Probability | None:
    """A region of a draft as probabilities of 0 and 1; None when it is no readable mask."""
    try:
        mask = mask_of(region)
    except MaskloopError:  # somebody else's damage must not cost this click its answer
        return None
    return None if mask is None else mask.astype(np.float32)
