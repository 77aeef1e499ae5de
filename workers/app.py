"""The Celery app. Importing this module reads no settings and connects to nothing.

Start workers with the prefork pool, one child for each queue group::

    celery -A workers.app worker -Q events,encode -n encode@%h --concurrency 1
    celery -A workers.app worker -Q training -n training@%h --concurrency 1
    celery -A workers.app beat --schedule HOME/celerybeat-schedule

Two workers, so that a long fine-tune never keeps an image or a webhook waiting. Prefork rather
than threads or solo: torch is imported and the model loaded in the child only (the parent never
imports torch, so nothing of OpenMP or CUDA is carried over a fork). A child that torch or the
kernel kills takes nothing with it: the parent lives, and sends the task again at once. Add
workers, or raise ``--concurrency`` where there is memory for a model in each child.

What is lost when a process dies: nothing.

- The child of a worker: the task is sent again at once (``task_retry_on_worker_lost``, bounded
  by ``max_retries`` so that a task that kills every worker does not go round for ever).
- A whole worker: its unacknowledged messages are handed out again after
  ``workers.visibility_seconds``. A task that runs longer than that may be handed out twice;
  every task first looks in SQL what is left to do, so the second finds nothing.
- Redis with all its messages: the schedule finds the same work again in SQL and Label Studio.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.signals import setup_logging

from pipeline.queue import routes, transport_options
from pipeline.settings import Settings, load_settings
from workers.schedule import schedule


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings from ours."""
    return {
        "broker_url": settings.redis_url,
        "broker_transport_options": transport_options(settings),
        "broker_connection_retry_on_startup": True,
        "task_routes": routes(),
        "task_default_queue": "events",
        # JSON only: a message is never unpickled, so whoever reaches Redis cannot run code.
        "task_serializer": "json",
        "accept_content": ["json"],
        # Results are rows in SQL; nobody waits for a message's reply.
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        "timezone": "UTC",
        "beat_schedule": schedule(settings),
    }


def create_app(settings: Settings | None = None) -> Celery:
    """A Celery app; without ``settings`` it reads them when Celery first asks for a value."""
    app = Celery("maskloop", include=["workers.tasks"])
    app.add_defaults(lambda: configuration(settings or load_settings()))
    return app


def log_plainly(loglevel: int | None = None, **_: object) -> None:
    """One handler on the root, so that our modules' lines and Celery's stand in one log."""
    logging.basicConfig(
        level=loglevel or logging.INFO,
        format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s",
    )


setup_logging.connect(log_plainly)
app = create_app()
