"""Rows of embeddings: one for each embedding in the store, with its pooled vector."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from pipeline.record.tables import Embedding, Image, ModelVersion, Task
from pipeline.record.tables.task import TaskStatus

log = logging.getLogger(__name__)


def find(session: Session, image_id: int, encoder: str, preprocess: str) -> Embedding | None:
    """The embedding of an image by one encoder and preprocessing, if it was recorded."""
    return session.scalars(
        select(Embedding).where(
            Embedding.image_id == image_id,
            Embedding.encoder == encoder,
            Embedding.preprocess == preprocess,
        )
    ).one_or_none()


def add(sessions: sessionmaker[Session], row: Embedding) -> None:
    """Write a row in its own transaction; nothing happens if another process has written it."""
    try:
        with sessions.begin() as session:
            session.add(row)
    except IntegrityError:
        log.debug("Another process recorded %s first.", row.key)


def images_of_tasks(session: Session, encoder: str, preprocess: str, *, seen: bool) -> list[int]:
    """Ids of the images of tasks that are not deleted.

    Args:
        seen: True: only images with an embedding of this encoder and preprocessing; False: only
            those without one.
    """
    encoded = select(Embedding.image_id).where(
        Embedding.encoder == encoder, Embedding.preprocess == preprocess
    )
    statement = select(Task.image_id).where(
        Task.image_id.is_not(None),
        Task.status != "deleted",
        Task.image_id.in_(encoded) if seen else Task.image_id.not_in(encoded),
    )
    return [image for image in session.scalars(statement.distinct()) if image is not None]


def count_images(session: Session, encoder: str) -> int:
    """How many images an encoder has seen."""
    seen = select(func.count(Embedding.image_id.distinct())).where(Embedding.encoder == encoder)
    return session.scalar(seen) or 0


def vectors_of_tasks(
    session: Session,
    project_id: int,
    statuses: Sequence[TaskStatus],
    encoder: str,
    preprocess: str,
) -> list[tuple[int, TaskStatus, int, str, bytes]]:
    """(task row's id, status, image id, SHA-256, vector float32 [C]) of tasks of a project.

    These are the tasks in one of ``statuses`` whose image has an embedding of this encoder and
    preprocessing, in the order of the rows.
    """
    rows = session.execute(
        select(Task.id, Task.status, Image.id, Image.sha256, Embedding.vector)
        .join(Image, Image.id == Task.image_id)
        .join(Embedding, Embedding.image_id == Image.id)
        .where(
            Task.ls_project_id == project_id,
            Task.status.in_(statuses),
            Embedding.encoder == encoder,
            Embedding.preprocess == preprocess,
        )
        .order_by(Task.id)
    )
    return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]


def kind_to_show(session: Session) -> tuple[str, str] | None:
    """(encoder, preprocessing) of the vectors to show together; None while there are none.

    Only vectors of one kind can be compared: those of the serving version, or, without one, of the
    kind that most images have.
    """
    counts = Counter[tuple[str, str]]()
    statement = select(Embedding.encoder, Embedding.preprocess, func.count())
    for encoder, preprocess, count in session.execute(
        statement.group_by(Embedding.encoder, Embedding.preprocess)
    ):
        counts[encoder, preprocess] = count
    serving = session.scalar(select(ModelVersion.encoder).where(ModelVersion.status == "serving"))
    ours = {kind: count for kind, count in counts.items() if kind[0] == serving} or counts
    return max(ours, key=lambda kind: (ours[kind], kind)) if ours else None


def vectors(
    session: Session, image_ids: Sequence[int], encoder: str, preprocess: str
) -> dict[int, bytes]:
    """The vectors, float32 [C], of these images by one encoder, by image id."""
    rows = session.execute(
        select(Embedding.image_id, Embedding.vector).where(
            Embedding.image_id.in_(image_ids),
            Embedding.encoder == encoder,
            Embedding.preprocess == preprocess,
        )
    )
    return {image_id: vector for image_id, vector in rows}
