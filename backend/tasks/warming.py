"""Has the embedding of an opened task, and those of the next ones, in memory before the click."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from model.inference.second_look import is_quick
from pipeline.embeddings.tiers import Embeddings
from pipeline.images.catalog import MOST_ADDRESS, Source, task_image, task_row
from pipeline.record.tables import Task
from pipeline.registry.serving import ServingModel
from pipeline.selection.upcoming import following
from pipeline.settings import Settings
from pipeline.storage.store import Store

log = logging.getLogger(__name__)

REMEMBERED = 256  # tasks that were seen to lately
MOST_WAITING = 32  # tasks; of more, the annotators are faster than we are


@dataclass(frozen=True, eq=False)
class Parts:
    """What it takes to make a task's image ready."""

    settings: Settings
    sessions: sessionmaker[Session]
    store: Store
    source: Source
    embeddings: Embeddings
    serving: ServingModel


class Warming:
    """One thread of its own, so that no click waits for an image that nobody has opened yet."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warming")
        self._seen: OrderedDict[tuple[int, int, bytes, bool], None] = OrderedDict()
        self._waiting = 0
        self._lock = Lock()
        self._closed = False

    def opened(self, project_id: int, ls_task_id: int, url: str, *, itself: bool) -> None:
        """An annotator is at a task: see to the embeddings of the tasks that follow.

        Returns at once. Whatever fails here fails again, and is told, when somebody clicks.

        Args:
            itself: see to this task's own first; a click on it does that anyway.
        """
        if len(url) > MOST_ADDRESS:  # told to whoever clicks
            return
        address = hashlib.sha256(url.encode()).digest()  # it may be long, and many are remembered
        key = project_id, ls_task_id, address, itself
        with self._lock:
            if self._closed or key in self._seen or self._waiting >= MOST_WAITING:
                return
            self._seen[key] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
            self._waiting += 1
            self._thread.submit(self._work, project_id, ls_task_id, url, itself)

    def close(self) -> None:
        """Let the task in hand end, and leave the rest."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(cancel_futures=True)

    def _work(self, project_id: int, ls_task_id: int, url: str, itself: bool) -> None:
        try:
            with self._parts.sessions.begin() as session:
                task = task_row(session, project_id, ls_task_id, url)
                count = self._parts.settings.backend.prefetch
                ids = [task.id] * itself + [each.id for each in following(session, task, count)]
            for task_id in ids:
                self._warm(task_id)
        except Exception as error:  # nobody waits for it
            log.warning("The next tasks were not made ready: %r", error)
        finally:
            with self._lock:
                self._waiting -= 1

    def _warm(self, task_id: int) -> None:
        parts = self._parts
        _, model = parts.serving.current()
        try:
            with parts.sessions() as session:
                task = session.get_one(Task, task_id)
            # An image that takes seconds to encode is the workers': here it would take the cores
            # from clicks.
            if task.image_id is None and not is_quick(model):
                return
            image = task_image(parts.sessions, parts.store, parts.source, task, parts.settings)
            if is_quick(model) or parts.embeddings.has(image.id, model):
                parts.embeddings.get(image.id, model)
        except MaskloopError as error:
            log.info("Task row %d was not made ready: %s", task_id, error)
