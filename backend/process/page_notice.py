"""What annotators should know before they click; a line in the labelling page fetches it."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from model.errors import MaskloopError
from pipeline.record import tasks
from pipeline.runtime import Runtime

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0  # for which an answer is kept
MOST_PROJECTS = 100  # whose answers are kept
UNAVAILABLE = "The model is unavailable. Your drawing is safe."


class PageNotice:
    """Answers any number of pages. Each asks every two seconds, so answers are kept for a while."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._answers: dict[int, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def text(self, project_id: int) -> str:
        """A sentence for the annotators of a project; empty when all is well."""
        with self._lock:
            at, text = self._answers.get(project_id, (0.0, ""))
            if time.monotonic() - at > FRESH_SECONDS:
                text = self._look(project_id)
                if len(self._answers) >= MOST_PROJECTS:
                    self._answers.clear()
                self._answers[project_id] = time.monotonic(), text
            return text

    def _look(self, project_id: int) -> str:
        try:
            self._runtime.serving.current()
            with self._runtime.sessions() as session:
                waiting = len(tasks.to_encode(session, project_id))
        except (MaskloopError, SQLAlchemyError) as error:
            log.warning("Annotators are told that the model is unavailable: %r", error)
            return UNAVAILABLE
        if not waiting:
            return ""
        images = "1 image is" if waiting == 1 else f"{waiting} images are"
        return f"{images} still being encoded; a first click there takes a moment longer."
