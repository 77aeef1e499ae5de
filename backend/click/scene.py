"""What is known when a click comes in: the image, the model, and the earlier replies."""

from __future__ import annotations

from dataclasses import dataclass

from backend.process.services import Services
from backend.process.supersede import Turn
from backend.request.question import Question, TaskView
from backend.request.session import Reply, replies
from model.network.embedding import Embedding
from model.network.segnext import SegNext
from pipeline.images.catalog import task_row
from pipeline.labelstudio.config import LabelConfig
from pipeline.record.tables import Image, ModelVersion, Task


@dataclass(frozen=True, eq=False)
class Scene:
    """All that is known when a click comes in.

    Attributes:
        view: the task as the annotator's page shows it.
        log: the newest replies on this image, newest first.
    """

    project_id: int
    config: LabelConfig
    view: TaskView
    task: Task
    image: Image
    version: ModelVersion
    model: SegNext
    embedding: Embedding
    log: list[Reply]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image, in pixels."""
        return self.image.height, self.image.width

    @property
    def knows_words(self) -> bool:
        """Whether the serving model understands words as a prompt."""
        return self.model.text_branch is not None


def set_scene(services: Services, question: Question, view: TaskView, turn: Turn) -> Scene:
    """Find the image, its embedding, the serving model, and the log of earlier replies.

    Raises:
        SupersededError: a newer click of the same annotator has arrived.
        UnknownRecordError, ImageSourceError, ImageError: the task's image cannot be read.
        StoreError, CheckpointError: the store or the serving model cannot be used.
    """
    runtime = services.runtime
    url = view.url(question.config.image_field)
    with runtime.sessions.begin() as session:
        task = task_row(session, question.project_id, view.id, url)
    turn.check()
    # The row is used as it was just written or read. Its address is the one in this request, even
    # if another request has changed the task's address since.
    image = runtime.catalog.image_of(task, while_waiting=turn.check)
    turn.check()
    version, model = runtime.serving.current()
    with services.metrics.embedding_seconds.time():
        embedding = runtime.embeddings.get(image.id, model)
    with runtime.sessions() as session:
        log = replies(session, task.id, image.id)
    return Scene(
        project_id=question.project_id,
        config=question.config,
        view=view,
        task=task,
        image=image,
        version=version,
        model=model,
        embedding=embedding,
        log=log,
    )
