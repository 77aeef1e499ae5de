"""Loads the embeddings of an opened task and of the next ones into memory before the click."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Self

from model.errors import MaskloopError
from model.inference.second_look import is_quick
from pipeline.images.catalog import MOST_ADDRESS, task_row
from pipeline.record import tasks
from pipeline.runtime import Runtime

log = logging.getLogger(__name__)

REMEMBERED = 256  # tasks that were handled lately
MOST_WAITING = 32  # tasks; when more wait, this process is slower than the annotators


class Warming:
    """Prepares embeddings in a thread of its own, so that no click waits for the image of a task
    that is not open yet. As a context manager it is closed at the end."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warming")
        self._seen: OrderedDict[tuple[int, int, bytes, bool], None] = OrderedDict()
        self._waiting = 0
        self._lock = Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def opened(self, project_id: int, ls_task_id: int, url: str, *, itself: bool) -> None:
        """Prepare the embeddings of the tasks that follow a task which an annotator has opened.

        Returns at once. An error is only logged: it occurs again at the next click, and is reported
        then.

        Args:
            itself: whether to prepare this task's own embedding first. A click on the task does
                that anyway.
        """
        if len(url) > MOST_ADDRESS:  # A click on the task reports this.
            return
        address = hashlib.sha256(url.encode()).digest()  # Addresses may be long; many are kept.
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
        """Wait until the current task is done, and drop the others."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(cancel_futures=True)

    def _work(self, project_id: int, ls_task_id: int, url: str, itself: bool) -> None:
        try:
            with self._runtime.sessions.begin() as session:
                task = task_row(session, project_id, ls_task_id, url)
                count = self._runtime.settings.backend.prefetch
                coming = tasks.following(session, task, count)
                ids = [task.id] * itself + [each.id for each in coming]
            for task_id in ids:
                self._warm(task_id)
        except Exception as error:  # No caller waits for this thread.
            log.warning("The next tasks were not made ready: %r", error)
        finally:
            with self._lock:
                self._waiting -= 1

    def _warm(self, task_id: int) -> None:
        runtime = self._runtime
        _, model = runtime.serving.current()
        try:
            with runtime.sessions() as session:
                task = tasks.get(session, task_id)
            # An image that takes seconds to encode is left to the workers, because encoding here
            # would slow down clicks.
            if task.image_id is None and not is_quick(model):
                return
            image = runtime.catalog.image_of(task)
            if is_quick(model) or runtime.embeddings.has(image.id, model):
                runtime.embeddings.get(image.id, model)
        except MaskloopError as error:
            log.info("Task row %d was not made ready: %s", task_id, error)
