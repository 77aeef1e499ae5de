"""Waits until Label Studio has saved what the annotator drew before the click that asks for it.

Shapes reach the backend in drafts only, and the page saves a draft up to five seconds after a
change. A click is a change too, so a draft with the click holds all that was drawn before it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from backend.process.services import Services
from backend.process.supersede import Turn
from backend.request.question import TaskView
from pipeline.errors import LabelStudioError

log = logging.getLogger(__name__)

PAUSE = 0.25  # seconds between two requests for the drafts


def wait_for_draft(services: Services, view: TaskView, mark_id: str, turn: Turn) -> TaskView | None:
    """Wait for a draft that holds the mark, and return the task as that draft shows it.

    Args:
        mark_id: id of the newest click, box or text.
        turn: ends the wait when a newer request of the session begins.

    Returns:
        The task, or None if no such draft came within ``backend.draft_seconds``.
    """
    if mark_id in view.kept:
        return view
    if not services.runtime.has_token:
        log.warning("No draft can be read without a token; set label_studio.token.")
        return None
    client = services.runtime.label_studio
    deadline = time.monotonic() + services.settings.backend.draft_seconds
    while not turn.is_over():
        try:
            drafts = client.drafts(view.id)
        except LabelStudioError as error:
            log.warning("The drafts of task %d cannot be read: %s", view.id, error)
            return None
        for draft in drafts:
            found = view.with_draft(draft) if isinstance(draft, Mapping) else view
            if mark_id in found.kept:
                return found
        if time.monotonic() + PAUSE > deadline:
            return None
        time.sleep(PAUSE)
    return None
