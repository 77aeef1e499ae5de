"""Having images encoded before anyone opens them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from model.progress import Progress, silent
from pipeline.errors import UnknownRecordError
from pipeline.images.catalog import task_image
from pipeline.record import versions
from pipeline.record.tables import Embedding, Task
from pipeline.runtime import Runtime
from pipeline.sync.webhooks import project_config, task_of

if TYPE_CHECKING:  # torch takes seconds to import
    from model.network.segnext import SegNext
    from pipeline.embeddings.tiers import Embeddings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodeReport:
    """What encoding a project came to; ``problems`` is task id in Label Studio -> sentence."""

    tasks: int
    encoded: int
    problems: dict[int, str]


def encode_task(runtime: Runtime, task_id: int) -> int:
    """Fetch and encode the image of a task row; quick when that was done. Returns the image's id.

    An image that the store has lost is fetched again: the annotator who is told of it is sent here.

    Raises:
        UnknownRecordError: no such task row.
        ImageSourceError, ImageError, EmbeddingStoreError: why there is no embedding.
    """
    _, model = runtime.serving.current()
    with runtime.sessions() as session:
        task = session.get(Task, task_id)
    if task is None:
        raise UnknownRecordError(f"There is no task row {task_id}; reconcile and try again.")
    image = task_image(
        runtime.sessions, runtime.store, runtime.images, task, runtime.settings, whole=True
    )
    runtime.embeddings.ensure(image.id, model)
    return image.id


def register_tasks(runtime: Runtime, project_id: int) -> list[int]:
    """A row for every task of a Label Studio project; returns the ids of those with an address.

    Raises:
        LabelStudioError: out of reach, or no such project.
        LabelConfigError: the project's labelling config shows no image.
    """
    field = project_config(runtime.label_studio, project_id).image_field
    remote = list(runtime.label_studio.tasks(project_id))
    with runtime.sessions.begin() as session:
        rows = [task_of(session, project_id, task.id, task.data, field) for task in remote]
        session.flush()
        return [row.id for row in rows if row.url]


def encode_project(runtime: Runtime, project_id: int, progress: Progress = silent) -> EncodeReport:
    """Encode every image of a project here and now. One that fails does not stop the others.

    Raises:
        LabelStudioError, LabelConfigError: the project cannot be listed.
    """
    rows = register_tasks(runtime, project_id)
    problems = {}
    for done, row in enumerate(rows):
        progress(done, len(rows))
        try:
            encode_task(runtime, row)
        except MaskloopError as error:
            with runtime.sessions() as session:
                problems[session.get_one(Task, row).ls_task_id] = str(error)
    progress(len(rows), len(rows))
    return EncodeReport(len(rows), len(rows) - len(problems), problems)


def encode_all(
    sessions: sessionmaker[Session],
    embeddings: Embeddings,
    model: SegNext,
    progress: Progress = silent,
) -> None:
    """Have every image that a task shows encoded by ``model``, which need not be the one that
    serves. Images that come meanwhile are included; a few that fail are left to their first click.

    Raises:
        EmbeddingStoreError, ImageError: not one of them all could be encoded, now or before; the
            last one's reason.
    """
    tried: set[int] = set()
    problem: MaskloopError | None = None
    while True:
        with sessions() as session:
            left = [image for image in _images(session, model, seen=False) if image not in tried]
            if not left:
                if problem is not None and not _images(session, model, seen=True):
                    raise problem
                return
        total = len(tried) + len(left)
        for image in left:
            progress(len(tried), total)
            tried.add(image)
            try:
                embeddings.ensure(image, model)
            except MaskloopError as error:
                log.warning("Image number %d is not encoded: %s", image, error)
                problem = error
        progress(total, total)


def _images(session: Session, model: SegNext, *, seen: bool) -> list[int]:
    """Ids of the images of tasks that have an embedding by ``model``, or of those without one."""
    encoded = select(Embedding.image_id).where(
        Embedding.encoder == model.encoder_fingerprint,
        Embedding.preprocess == model.preprocess_id,
    )
    statement = select(Task.image_id).where(
        Task.image_id.is_not(None),
        Task.status != "deleted",
        Task.image_id.in_(encoded) if seen else Task.image_id.not_in(encoded),
    )
    return [image for image in session.scalars(statement.distinct()) if image is not None]


def waiting_tasks(
    session: Session, project_id: int | None = None, *, again: bool = False
) -> list[int]:
    """Ids of task rows whose image the serving version's encoder has not seen, oldest first.

    Args:
        project_id: of this project only.
        again: with those whose image could not be used at the last try.
    """
    version = versions.serving(session)
    statement = select(Task.id).where(Task.url != "", Task.status != "deleted")
    if not again:
        statement = statement.where(Task.problem.is_(None))
    if version is not None:
        encoded = select(Embedding.image_id).where(Embedding.encoder == version.encoder)
        statement = statement.where(Task.image_id.is_(None) | Task.image_id.not_in(encoded))
    if project_id is not None:
        statement = statement.where(Task.ls_project_id == project_id)
    return list(session.scalars(statement.order_by(Task.id)))
