"""Waits until Label Studio has saved what the annotator drew before the click that asks for it.

Shapes reach the backend in drafts only, and the page saves a draft up to five seconds after a
change. A click is a change too: a draft that has the click has all that was drawn before it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from backend.click.request import TaskView
from backend.tasks.services import Services
from pipeline.errors import LabelStudioError

log = logging.getLogger(__name__)

PAUSE = 0.25  # seconds between two looks


def wait_for_draft(
    services: Services, view: TaskView, mark_id: str, stale: Callable[[], bool]
) -> TaskView | None:
    """The task as a draft shows it that holds the mark; None when none came in time.

    Args:
        mark_id: of the newest click, box or text.
        stale: says that nobody waits for the answer any more.
    """
    if mark_id in view.kept:
        return view
    client = services.label_studio
    if client is None:
        log.warning("No draft can be read without a token; set label_studio.token.")
        return None
    deadline = time.monotonic() + services.settings.backend.draft_seconds
    while not stale():
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
