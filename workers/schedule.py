"""The tasks that the schedule starts, and how often it starts each."""

from __future__ import annotations

from typing import Any

from pipeline import queue
from pipeline.settings import Settings

DAY_SECONDS = 86_400
AGAIN_SECONDS = 3600  # between two tries of images that could not be fetched


def schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Celery's ``beat_schedule``."""
    return {
        # Label Studio's webhooks time out after a second and are never sent again, so polling
        # finds what they missed.
        "reconcile": _every(settings.label_studio.poll_seconds, queue.RECONCILE),
        # The modules called ``due`` decide whether one is due; each check is a query or two.
        "select": _every(settings.workers.check_seconds, queue.SELECT_IF_DUE),
        "finetune": _every(settings.workers.check_seconds, queue.FINETUNE_IF_DUE),
        "mirror": _every(settings.workers.mirror_seconds, queue.MIRROR),
        # New images are encoded when they arrive; this is for those that could not be fetched then.
        "encode": _every(AGAIN_SECONDS, queue.ENCODE_PROJECTS),
        "prune": _every(DAY_SECONDS, queue.PRUNE),
    }


def _every(seconds: float, task: str) -> dict[str, Any]:
    # Messages expire, because a worker that was down for a night would otherwise find the same
    # message hundreds of times.
    options = {"expires": seconds}
    return {"task": task, "schedule": seconds, "options": options}
