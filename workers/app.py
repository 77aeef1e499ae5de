"""The Celery app. Importing this module reads no settings and connects to nothing.

Start workers with the prefork pool, one child for each queue group::

    celery -A workers.app worker -Q events,encode -n encode@%h --concurrency 1
    celery -A workers.app worker -Q training -n training@%h --concurrency 1
    celery -A workers.app beat --schedule HOME/celery/schedule

There are two workers, so that a long fine-tune never delays an image or a webhook. The pool is
prefork, not threads or solo, because then only the child imports torch and loads the model. The
parent never imports torch, so no state of OpenMP or CUDA is carried over a fork. When torch or the
kernel kills a child, nothing else is lost: the parent goes on running and sends the task again at
once. Add workers, or raise ``--concurrency`` where there is memory for a model in each child.

Nothing is lost when a process dies:

- When the child of a worker dies, the task is sent again at once (``task_retry_on_worker_lost``).
  ``max_retries`` limits this, so that a task that kills every worker is not repeated for ever.
- When a whole worker dies, its unacknowledged messages are delivered again after
  ``workers.visibility_seconds``. A task that runs longer than that may be delivered twice. Every
  task first looks in SQL for what is left to do, so the second delivery finds nothing.
- When Redis loses all its messages, the schedule finds the same work again in SQL and Label Studio.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.signals import setup_logging

from pipeline.queue import WORKER_SECONDS, routes, transport_options
from pipeline.record.heartbeats import BEAT_SECONDS
from pipeline.settings import Settings, load_settings
from workers.schedule import schedule


def configuration(settings: Settings) -> dict[str, Any]:
    """Celery's settings from ours."""
    return {
        "broker_url": settings.redis_url,
        "broker_transport_options": transport_options(settings, socket_seconds=WORKER_SECONDS),
        "broker_connection_retry_on_startup": True,
        "task_routes": routes(),
        "task_default_queue": "events",
        # Only JSON: messages are never unpickled, so access to Redis is not enough to run code.
        "task_serializer": "json",
        "accept_content": ["json"],
        # Results are rows in SQL, and no caller waits for a task's return value.
        "task_ignore_result": True,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_retry_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        # A worker waits for Redis as long as it takes, and asks often: the default pause grows to
        # half a minute, and ends after a hundred tries.
        "broker_connection_max_retries": None,
        "timezone": "UTC",
        "beat_schedule": schedule(settings),
        "beat_scheduler": "workers.heartbeats:Scheduler",
        "beat_max_loop_interval": BEAT_SECONDS,
    }


def create_app(settings: Settings | None = None) -> Celery:
    """Create a Celery app. Without ``settings`` it reads them when Celery first needs a value."""
    app = Celery("maskloop", include=["workers.tasks", "workers.heartbeats"])
    app.add_defaults(lambda: configuration(settings or load_settings()))
    return app


def log_plainly(loglevel: int | None = None, **_: object) -> None:
    """Set up one handler on the root logger, so that our modules and Celery share one log."""
    logging.basicConfig(
        level=loglevel or logging.INFO,
        format="%(asctime)s %(levelname)s %(processName)s %(name)s: %(message)s",
    )


setup_logging.connect(log_plainly)
app = create_app()
