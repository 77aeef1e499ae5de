"""What runs by itself, and how often."""

from __future__ import annotations

from typing import Any

from pipeline import queue
from pipeline.settings import Settings

AGAIN_SECONDS = 3600  # between two tries of images that could not be fetched


def schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Celery's ``beat_schedule``."""
    plan = {
        # Label Studio's webhooks time out after a second and are never sent again.
        "reconcile": _every(settings.label_studio.poll_seconds, queue.RECONCILE),
        # Whether they are due, see pipeline.training.due; the look itself is a query or two.
        "select": _every(settings.workers.check_seconds, queue.SELECT_IF_DUE),
        "finetune": _every(settings.workers.check_seconds, queue.FINETUNE_IF_DUE),
        "mirror": _every(settings.workers.mirror_seconds, queue.MIRROR),
    }
    if (project := settings.label_studio.project) is not None:
        # New images are encoded as they come; this is for those that were out of reach then.
        plan["encode"] = _every(AGAIN_SECONDS, queue.ENCODE_PROJECT, project)
    return plan


def _every(seconds: float, task: str, *args: int) -> dict[str, Any]:
    # Without an end, a worker that was down for a night would find hundreds of the same message.
    options = {"expires": seconds}
    return {"task": task, "args": args, "schedule": seconds, "options": options}
