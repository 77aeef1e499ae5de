"""Finds the image that a task shows; images are known by the hash of their bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from pipeline.errors import ImageSourceError
from pipeline.images.decode import decode_image, image_extension
from pipeline.record import images, tasks
from pipeline.record.tables import Image, Task
from pipeline.record.tables.base import is_storable
from pipeline.record.tables.image import Split
from pipeline.settings import ImageSettings, Settings
from pipeline.storage.store import Store

IMAGES = "images"  # the part of the store that holds the bytes of images
MOST_ADDRESS = 10_000  # characters of an image's address; a signed one has a thousand or two
LOOK_SECONDS = 0.1  # between two checks whether the image is still needed
SPLIT_DIGITS = 16  # hexadecimal digits of the hash that decide the split: 64 bits


class Source(Protocol):
    """Where a task's image comes from; ``pipeline.images.source.ImageSource`` is one."""

    def fetch(self, url: str) -> bytes: ...


class Catalog:
    """Images by their bytes and by the tasks that show them. Threads may share one.

    Args:
        source: fetches an image by the address that a task holds.
    """

    def __init__(
        self, sessions: sessionmaker[Session], store: Store, source: Source, settings: Settings
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._source = source
        self._settings = settings
        # Images that are being fetched, by address. This is not a ``Cache``, because a thread that
        # waits in a ``Cache`` cannot stop waiting: an annotator who keeps clicking while a slow
        # image is fetched would then use up all threads for clicks.
        self._flights: dict[str, Future[Image]] = {}
        self._lock = Lock()

    def register(self, data: bytes) -> Image:
        """The row of the image with these bytes, made when there is none.

        Afterwards its bytes are in the store. The split is set when the row is made and never
        changes, even if the settings do. Call this outside any transaction, because decoding takes
        time.

        Raises:
            ImageError: the bytes are not an image that can be used.
            StoreError: the store cannot keep them.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        with self._sessions() as session:
            known = images.by_sha256(session, sha256)
        if known is not None:
            if not self._store.exists(image_key(known)):  # The store was emptied.
                self._store.write(image_key(known), data)
            return known
        height, width, _ = decode_image(data, self._settings.images).shape
        image = Image(
            sha256=sha256,
            width=width,
            height=height,
            extension=image_extension(data),
            split=split_of(sha256, self._settings.finetune.holdout_share),
        )
        self._store.write(image_key(image), data)  # A row promises that they are there.
        with self._sessions.begin() as session:
            return images.add(session, image)

    def image_of(
        self,
        task: Task,
        *,
        whole: bool = False,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> Image:
        """The image at the address of ``task``, fetched and registered when it is not known yet.

        Fetching may take seconds, so call this outside any session. Threads that ask for the same
        address at the same time share its download. Then the row gets the image, or on failure the
        reason in ``problem``, unless its address has changed meanwhile.

        Args:
            task: the row as it was read. Later changes of the row do not change which image is
                meant.
            whole: whether to fetch a known image again when the store has lost its bytes.
            while_waiting: called every ``LOOK_SECONDS`` while another thread fetches the image; an
                exception from it ends the wait.

        Raises:
            ImageSourceError, ImageError, StoreError: the image cannot be fetched, decoded or kept.
        """
        if task.image_id is not None:
            with self._sessions() as session:
                image = images.get(session, task.image_id)
            if not whole or self._store.exists(image_key(image)):
                return image
        if not task.url and task.problem:  # The row says why there is no address.
            raise ImageSourceError(task.problem)
        flight = self._flight(task.url)
        while not flight.done():
            while_waiting()
            wait([flight], LOOK_SECONDS)
        try:
            image = flight.result()
        except MaskloopError as error:
            with self._sessions.begin() as session:
                tasks.note_problem(session, task, str(error))
            raise
        with self._sessions.begin() as session:
            tasks.note_image(session, task, image.id)
        return image

    def _flight(self, url: str) -> Future[Image]:
        """The image at an address: fetched now, or being fetched by another thread already."""
        with self._lock:
            known = self._flights.get(url)
            if known is not None:
                return known
            flight = self._flights[url] = Future()
        try:
            flight.set_result(self.register(self._source.fetch(url)))
        except BaseException as error:  # Other threads wait for it, and must not wait for ever.
            flight.set_exception(error)
        finally:
            with self._lock:
                del self._flights[url]
        return flight


def split_of(sha256: str, holdout_share: float) -> Split:
    """The split of an image, which depends only on its bytes and the share.

    The last 64 bits of the hash, as a fraction of 2**64, are evenly spread over [0, 1); a fraction
    below the share means hold-out. So an image gets the same split on every machine and in every
    project. Raising the share affects only images that are registered later.

    Args:
        sha256: the hash of the image's bytes, in hexadecimal digits.
        holdout_share: in [0, 1].
    """
    fraction = int(sha256[-SPLIT_DIGITS:], 16) / 16**SPLIT_DIGITS
    return "holdout" if fraction < holdout_share else "train"


def image_key(image: Image) -> str:
    """The key of the bytes of ``image`` in the store."""
    return f"{IMAGES}/{image.sha256[:2]}/{image.sha256}.{image.extension}"


def read_image(store: Store, image: Image, settings: ImageSettings) -> npt.NDArray[np.uint8]:
    """The pixels of ``image`` from the store: uint8 [H, W, 3], RGB, upright.

    Raises:
        StoreError: its bytes are not in the store.
        ImageError: they are damaged.
    """
    return decode_image(store.read(image_key(image)), settings)


def task_row(session: Session, project_id: int, ls_task_id: int, url: str) -> Task:
    """The row of a Label Studio task, made when there is none (``pipeline.record.tasks.put``).

    Raises:
        ImageSourceError: ``url`` has more than ``MOST_ADDRESS`` characters, or one that no database
            can hold; nothing was written.
    """
    if len(url) > MOST_ADDRESS:
        raise ImageSourceError(
            f"The address of the image of task {ls_task_id} is {len(url):,} characters long; a "
            "task must hold an address, not the picture itself, and data: addresses cannot be used."
        )
    if not is_storable(url):
        raise ImageSourceError(
            f"The address of the image of task {ls_task_id} holds a character that no address may "
            "hold; correct it in the task's data."
        )
    return tasks.put(session, project_id, ls_task_id, url)


def task_of(
    session: Session, project_id: int, ls_task_id: int, data: Mapping[str, Any], field: str
) -> Task:
    """The row of a task as Label Studio shows it, made when there is none.

    A task without a usable address gets a row too, whose ``problem`` gives the reason.

    Args:
        field: the field of ``data`` with the image's address.
    """
    url = data.get(field)
    try:
        task = task_row(session, project_id, ls_task_id, url if isinstance(url, str) else "")
    except ImageSourceError as error:  # One such task must not stop the others.
        task = task_row(session, project_id, ls_task_id, "")
        task.problem = str(error)
        return task
    if not task.url:
        task.problem = (
            f"The task has no address in its field {field!r}, where the labelling config "
            "looks for the image; add it to the task's data."
        )
    return task
