"""What annotators should know before they click, for the line in the page that asks for it."""

from __future__ import annotations

import logging
import threading
import time

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from backend.http.notice import UNAVAILABLE
from model.errors import MaskloopError
from pipeline.precompute.encode import waiting_tasks
from pipeline.registry.serving import ServingModel

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
MOST_PROJECTS = 100


class Standing:
    """Every open page asks every two seconds, so an answer is kept for ``FRESH_SECONDS``."""

    def __init__(self, sessions: sessionmaker[Session], serving: ServingModel) -> None:
        self._sessions = sessions
        self._serving = serving
        self._said: dict[int, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def said(self, project_id: int) -> str:
        """A sentence for the annotators of a project; empty when all is well."""
        with self._lock:
            at, text = self._said.get(project_id, (0.0, ""))
            if time.monotonic() - at > FRESH_SECONDS:
                text = self._look(project_id)
                if len(self._said) >= MOST_PROJECTS:
                    self._said.clear()
                self._said[project_id] = time.monotonic(), text
            return text

    def _look(self, project_id: int) -> str:
        try:
            self._serving.current()
            with self._sessions() as session:
                waiting = len(waiting_tasks(session, project_id))
        except (MaskloopError, SQLAlchemyError) as error:
            log.warning("Annotators are told that the model is unavailable: %r", error)
            return UNAVAILABLE
        if not waiting:
            return ""
        images = "1 image is" if waiting == 1 else f"{waiting} images are"
        return f"{images} still being encoded; a first click there takes a moment longer."
