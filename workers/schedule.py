"""What runs by itself, and how often."""

from __future__ import annotations

from typing import Any

from pipeline import queue
from pipeline.settings import Settings


def schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Celery's ``beat_schedule``."""
    return {
        # Label Studio's webhooks time out after a second and are never sent again.
        "reconcile": _every(settings.label_studio.poll_seconds, queue.RECONCILE),
        # By count or by the clock, see pipeline.policy; the look itself is one query.
        "finetune": _every(settings.workers.check_seconds, queue.FINETUNE_IF_DUE),
        "mirror": _every(settings.workers.mirror_seconds, queue.MIRROR),
    }


def _every(seconds: float, task: str) -> dict[str, Any]:
    # Without an end, a worker that was down for a night would find hundreds of the same message.
    return {"task": task, "schedule": seconds, "options": {"expires": seconds}}
