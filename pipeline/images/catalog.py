"""Which image a task shows, and images known by the hash of their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, wait
from threading import Lock
from typing import Protocol

import numpy as np
import numpy.typing as npt
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from pipeline.errors import ImageSourceError
from pipeline.images.decode import decode_image, image_extension
from pipeline.record.tables import Image, Task
from pipeline.record.tables.image import Split
from pipeline.settings import ImageSettings, Settings
from pipeline.storage.store import Store

MOST_ADDRESS = 10_000  # characters of an image's address; a signed one has a thousand or two
LOOK_SECONDS = 0.1  # between two looks whether an image is still waited for


class Source(Protocol):
    """Where a task's image comes from; ``pipeline.images.source.ImageSource`` is one."""

    def fetch(self, url: str) -> bytes: ...


# Images on their way in this process. Not ``Cache``, whose waiting threads cannot leave: those of
# an annotator who clicks on while a slow image comes would hold all threads there are for clicks.
_flights: dict[tuple[Source, str], Future[Image]] = {}
_lock = Lock()


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

    Raises:
        ImageSourceError: ``url`` is longer than any address; nothing was written.
    """
    if len(url) > MOST_ADDRESS:
        raise ImageSourceError(
            f"The address of the image of task {ls_task_id} is {len(url):,} characters long; a "
            "task must hold an address, not the picture itself, and data: addresses cannot be used."
        )
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
        # All three, whatever we read: setting them on the row would leave out those that had no
        # value then, and the old address's image may have come since.
        forget = {"url": url, "image_id": None, "problem": None}
        session.execute(update(Task).where(Task.id == task.id).values(forget))
        session.refresh(task)
    return task


def task_image(
    sessions: sessionmaker[Session],
    store: Store,
    source: Source,
    task: Task,
    settings: Settings,
    *,
    whole: bool = False,
    while_waiting: Callable[[], None] = lambda: None,
) -> Image:
    """The image at the address of ``task``, fetched and registered when it is not known yet.

    Fetching may take seconds: call this outside any session. Threads that ask for one address at
    a time share its download. The row gets the image, or on failure the reason in ``problem``,
    unless it shows another address by then.

    Args:
        task: as it was read; what became of its row since does not change which image is meant.
        whole: fetch an image that is known, too, when the store has lost its bytes.
        while_waiting: called now and then while another thread fetches the image; what it raises
            ends the wait.

    Raises:
        ImageSourceError, ImageError, EmbeddingStoreError: why there is no image.
    """
    if task.image_id is not None:
        with sessions() as session:
            image = session.get_one(Image, task.image_id)
        if not whole or store.exists(image_key(image)):
            return image
    if not task.url and task.problem:  # it says why there is no address
        raise ImageSourceError(task.problem)

    def fetch() -> Image:
        data = source.fetch(task.url)
        with sessions.begin() as session:
            return register_image(session, store, data, settings)

    flight = _flight((source, task.url), fetch)
    while not flight.done():
        while_waiting()
        wait([flight], LOOK_SECONDS)
    try:
        image = flight.result()
    except MaskloopError as error:
        _note(sessions, task, problem=str(error))
        raise
    _note(sessions, task, image_id=image.id, problem=None)
    return image


def _note(sessions: sessionmaker[Session], task: Task, **values: int | str | None) -> None:
    """Write of a task's row what was found at an address, if that is still its address."""
    with sessions.begin() as session:
        same = Task.id == task.id, Task.url == task.url
        session.execute(update(Task).where(*same).values(**values))


def _flight(key: tuple[Source, str], fetch: Callable[[], Image]) -> Future[Image]:
    """What ``fetch`` gave; what it gives to another thread, where one began before."""
    with _lock:
        known = _flights.get(key)
        if known is not None:
            return known
        flight = _flights[key] = Future()
    try:
        flight.set_result(fetch())
    except BaseException as error:  # whoever waits must not wait for ever
        flight.set_exception(error)
    finally:
        with _lock:
            del _flights[key]
    return flight
