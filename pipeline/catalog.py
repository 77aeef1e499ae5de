"""Which image a task shows, and images known by the hash of their bytes."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from model.errors import MaskloopError
from pipeline.images import decode_image, image_extension
from pipeline.settings import ImageSettings, Settings
from pipeline.store import Store
from pipeline.tables import Image, Task
from pipeline.tables.image import Split


class Source(Protocol):
    """Where a task's image comes from; ``pipeline.image_source.ImageSource`` is one."""

    def fetch(self, url: str) -> bytes: ...


def split_of(sha256: str, holdout_share: float) -> Split:
    """The split of an image, from nothing but its bytes.

    The last 64 bits of the hash, as a fraction of 2**64, are evenly spread over [0, 1); below the
    share means hold-out. So an image gets the same split on every machine and in every project,
    and raising the share only ever moves images that nobody has seen yet.
    """
    return "holdout" if int(sha256[-16:], 16) / 2**64 < holdout_share else "train"


def image_key(image: Image) -> str:
    """Where the bytes of ``image`` lie in the store."""
    return f"images/{image.sha256[:2]}/{image.sha256}.{image.extension}"


def register_image(session: Session, store: Store, data: bytes, settings: Settings) -> Image:
    """The row of the image with these bytes, made when there is none; its bytes are in the store.

    The split is set when the row is made and never again, whatever the settings say later.

    Raises:
        ImageError: the bytes are no image that can be used.
        EmbeddingStoreError: the store cannot keep them.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    known = select(Image).where(Image.sha256 == sha256)
    image = session.scalars(known).one_or_none()
    if image is not None:
        if not store.exists(image_key(image)):  # a store that was emptied fills again
            store.write(image_key(image), data)
        return image
    height, width, _ = decode_image(data, settings.images).shape
    image = Image(
        sha256=sha256,
        width=width,
        height=height,
        extension=image_extension(data),
        split=split_of(sha256, settings.finetune.holdout_share),
    )
    store.write(image_key(image), data)  # before the row: a row promises bytes
    try:
        with session.begin_nested():
            session.add(image)
    except IntegrityError:  # another process registered it since we looked
        image = session.scalars(known).one()
    return image


def read_image(store: Store, image: Image, settings: ImageSettings) -> npt.NDArray[np.uint8]:
    """The pixels of ``image`` from the store: uint8 [H, W, 3], RGB, upright.

    Raises:
        EmbeddingStoreError: its bytes are not in the store.
        ImageError: they are damaged.
    """
    return decode_image(store.read(image_key(image)), settings)


def task_row(session: Session, project_id: int, ls_task_id: int, url: str) -> Task:
    """The row of a Label Studio task, made when there is none.

    A task whose address changed shows another image from now on, so the row forgets the old one.
    """
    known = select(Task).where(Task.ls_project_id == project_id, Task.ls_task_id == ls_task_id)
    task = session.scalars(known).one_or_none()
    if task is None:
        task = Task(ls_project_id=project_id, ls_task_id=ls_task_id, url=url)
        try:
            with session.begin_nested():
                session.add(task)
        except IntegrityError:  # another process wrote it since we looked
            task = session.scalars(known).one()
    if task.url != url:
        task.url, task.image_id, task.problem = url, None, None
    return task


def task_image(
    session: Session, store: Store, source: Source, task: Task, settings: Settings
) -> Image:
    """The image that ``task`` shows, fetched and registered when it is not known yet.

    Fetching may take seconds: call this in a transaction that has written nothing yet, so that no
    other writer waits for a download. On failure ``task.problem`` gets the reason and the session
    is committed, so that the reason stays when the caller's block is rolled back.

    Raises:
        ImageSourceError, ImageError, EmbeddingStoreError: why there is no image.
    """
    if task.image_id is not None:
        return session.get_one(Image, task.image_id)
    try:
        image = register_image(session, store, source.fetch(task.url), settings)
    except MaskloopError as error:
        task.problem = str(error)
        session.commit()
        raise
    task.image_id, task.problem = image.id, None
    return image
