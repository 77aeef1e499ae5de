"""Encodes the images that an encoder has not seen yet."""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from model.network.segnext import SegNext
from model.progress import Progress, silent
from pipeline.embeddings.tiers import Embeddings
from pipeline.record.embeddings import images_of_tasks

log = logging.getLogger(__name__)


def encode_all(
    sessions: sessionmaker[Session],
    embeddings: Embeddings,
    model: SegNext,
    progress: Progress = silent,
) -> None:
    """Encode every image that a task shows with ``model``, which need not be the serving one.

    Images that are added meanwhile are included. Images that fail are left out with a warning; they
    are tried again at their first click.

    Raises:
        StoreError, ImageError: no image at all could be encoded, now or before; this is the error
            of the last one.
    """
    tried: set[int] = set()
    problem: MaskloopError | None = None
    while True:
        left = [image for image in _images(sessions, model, seen=False) if image not in tried]
        if not left:
            if problem is not None and not _images(sessions, model, seen=True):
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


def _images(sessions: sessionmaker[Session], model: SegNext, *, seen: bool) -> list[int]:
    with sessions() as session:
        return images_of_tasks(session, model.encoder_fingerprint, model.preprocess_id, seen=seen)
