"""What is known when a click comes in: the image, the model, and what both said before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backend.click.prompts import Mark, prompt_of
from backend.click.request import Question, TaskView
from backend.click.session import Probability, Reply, Thread, replies, uses
from backend.tasks.network import SupersededError
from backend.tasks.services import Services
from model.errors import ImageError
from model.inference import second_look
from model.network.embedding import Embedding
from model.network.prediction import Prediction, Window
from model.network.prompts import Prompt
from model.network.segnext import SegNext
from pipeline.errors import EmbeddingStoreError
from pipeline.images.catalog import task_image, task_row
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import output_region, same_drawing
from pipeline.masks.ops import probability_from_png
from pipeline.record.tables import Image, Interaction, ModelVersion, Task

log = logging.getLogger(__name__)


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
    stale: Callable[[], bool]  # nobody waits for the answer any more
    # Which region a first click means is seen in the model's answer to it, which is then often the
    # answer to give: it is made once.
    _fresh: dict[tuple[Mark, ...], Prediction] = field(default_factory=dict)

    @property
    def knows_words(self) -> bool:
        """Whether the serving model can be told what to look for in words."""
        return self.model.text_branch is not None

    def decode(self, marks: Sequence[Mark], mask: Probability | None) -> Prediction:
        """The model's answer, after a second look where the settings and the object call for it.

        Words that stand beside other marks are left out where the model knows none.

        Raises:
            SupersededError: nobody waits for it any more.
            PromptError: the marks mean nothing, or are words alone to a model that knows none.
        """
        if not self.knows_words and any(mark.kind != "text" for mark in marks):
            marks = [mark for mark in marks if mark.kind != "text"]
        if mask is not None:
            return self._answer(prompt_of(marks, mask))
        key = tuple(marks)
        if key not in self._fresh:
            self._fresh[key] = self._answer(prompt_of(key, None))
        return self._fresh[key]

    def _answer(self, prompt: Prompt) -> Prediction:
        wanted = self.services.settings.model.second_look
        if wanted == "off" or (wanted == "auto" and not second_look.is_quick(self.model)):
            return self._decode(self.embedding, prompt)
        try:
            return second_look.answer(
                self.model, prompt, self.embedding, self._look_at, self._decode
            )
        except (EmbeddingStoreError, ImageError) as error:  # the image is gone, its embedding not
            log.warning("Answered without a second look: %s", error)
            return self._decode(self.embedding, prompt)

    def _decode(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        return self.services.network.decode(self.model, embedding, prompt, self.stale)

    def _look_at(self, window: Window) -> Embedding:
        if self.stale():
            raise SupersededError
        with self.services.metrics.window_seconds.time():
            return self.services.embeddings.get(self.image.id, self.model, window)

    def uses(self) -> dict[str, set[str]]:
        """The regions that each mark was ever used for, by its id; the log may not reach so far."""
        with self.services.sessions() as database:
            return uses(database, self.task.id, self.image.id)

    def probability(self, reply: Reply) -> Probability:
        """What the model answered then; the annotator's own edit of it where the draft has one."""
        with self.services.sessions() as database:
            row = database.get_one(Interaction, reply.id)
        kept = self.view.kept.get(reply.region_id)
        if kept is not None and not same_drawing(kept, self._sent(reply, row.rle)):
            edited = self.services.drawings.mask(kept)
            if edited is not None:
                return edited.astype(np.float32)
        return probability_from_png(row.probability)

    def _sent(self, reply: Reply, rle: bytes) -> dict[str, Any]:
        return self.services.sent.region(
            reply.id, self.config, lambda: self.region(reply, rle), scored=False
        )

    def region(
        self, thread: Thread | Reply, rle: bytes, score: float | None = None, rotation: int = 0
    ) -> dict[str, Any]:
        """The region of a mask as the labelling config asks for it."""
        return output_region(
            region_id=thread.region_id,
            rle=rle,
            height=self.image.height,
            width=self.image.width,
            label=thread.label,
            config=self.config,
            score=score,
            rotation=rotation,
            tolerance=self.services.settings.label_studio.outline_tolerance,
        )


def set_scene(
    services: Services,
    question: Question,
    view: TaskView,
    config: LabelConfig,
    stale: Callable[[], bool],
) -> Scene:
    """Find the image, its embedding, the model that serves, and the log of what was answered.

    Raises:
        SupersededError: nobody waits for the answer any more.
        UnknownRecordError, ImageSourceError, ImageError: the task has no image to be had.
    """

    def go_on() -> None:
        if stale():
            raise SupersededError

    url = view.url(config.image_field)
    with services.sessions.begin() as database:
        task = task_row(database, question.project_id, view.id, url)
    go_on()
    # Of the row as it was just written or read: its address is the one that this request shows,
    # whatever another request says of the task meanwhile.
    image = task_image(
        services.sessions,
        services.store,
        services.source,
        task,
        services.settings,
        while_waiting=go_on,
    )
    go_on()
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
        stale=stale,
    )
