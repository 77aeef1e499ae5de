"""The message queue: which tasks there are, which queue each goes to, and how to send one.

Redis only carries messages; what a task has to do is always in SQL. So a lost message costs a
moment, not data: the schedule finds the same work again.

There are three queues, so that a long fine-tune never keeps an image or a webhook waiting:
``events`` (webhooks, reconcile), ``encode`` (one image each) and ``training`` (minutes to hours).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from pipeline.errors import ServiceError
from pipeline.settings import Settings

ENCODE_TASK = "maskloop.encode_task"  # (id of a task row)
ENCODE_PROJECTS = "maskloop.encode_projects"
ENCODE_PROJECT = "maskloop.encode_project"  # (Label Studio's project id[, whether asked for])
HANDLE_EVENT = "maskloop.handle_event"  # (id of an event row)
RECONCILE = "maskloop.reconcile"
FINETUNE = "maskloop.finetune"  # (whether a person asked for it)
FINETUNE_IF_DUE = "maskloop.finetune_if_due"
SELECT_IF_DUE = "maskloop.select_if_due"
SELECT = "maskloop.select"  # (Label Studio's project id[, tasks in the round])
MIRROR = "maskloop.mirror"
PRUNE = "maskloop.prune"
PROMOTE = "maskloop.promote"  # (name of a model version)

EVENTS_QUEUE = "events"
ENCODE_QUEUE = "encode"
TRAINING_QUEUE = "training"

QUEUES = {
    HANDLE_EVENT: EVENTS_QUEUE,
    RECONCILE: EVENTS_QUEUE,
    FINETUNE_IF_DUE: EVENTS_QUEUE,
    PRUNE: EVENTS_QUEUE,
    ENCODE_TASK: ENCODE_QUEUE,
    ENCODE_PROJECTS: ENCODE_QUEUE,
    ENCODE_PROJECT: ENCODE_QUEUE,
    FINETUNE: TRAINING_QUEUE,
    SELECT: TRAINING_QUEUE,
    SELECT_IF_DUE: TRAINING_QUEUE,
    MIRROR: TRAINING_QUEUE,
    PROMOTE: TRAINING_QUEUE,
}

# Time limits of one exchange with Redis. Without them, a Redis that accepts a connection and then
# says nothing would hold its caller for ever.
SEND_SECONDS = 1.5  # of a sender, which is often a web request: it should fail soon
WORKER_SECONDS = 5.0  # of a worker, which waits for messages, a second at a time
INSPECT_SECONDS = 3.0  # in which workers may answer; a call always waits for all of it
RESTORE_SECONDS = 10  # between two looks for messages of dead workers


def transport_options(settings: Settings, *, socket_seconds: float) -> dict[str, Any]:
    """kombu's options for Redis.

    Args:
        socket_seconds: time limit of one exchange.
    """
    return {
        # After this time, the messages of a killed worker are delivered again. A task that runs
        # longer is delivered twice, which is harmless: every task first looks in SQL for what is
        # left to do.
        "visibility_timeout": settings.workers.visibility_seconds,
        "unacked_restore_interval": min(RESTORE_SECONDS, settings.workers.visibility_seconds),
        "unacked_restore_throttle": 1,
        "socket_connect_timeout": SEND_SECONDS,
        "socket_timeout": socket_seconds,
        "socket_keepalive": True,
    }


def routes() -> dict[str, dict[str, str]]:
    """Celery's ``task_routes``."""
    return {name: {"queue": queue} for name, queue in QUEUES.items()}


class Enqueuer:
    """Sends tasks by name, so that a sender need not import the workers' code."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _app(self) -> Celery:
        app = Celery("maskloop", set_as_current=False)
        app.conf.update(
            broker_url=self._settings.redis_url,
            broker_transport_options=transport_options(self._settings, socket_seconds=SEND_SECONDS),
            broker_connection_timeout=SEND_SECONDS,
            task_routes=routes(),
            task_serializer="json",
            task_ignore_result=True,
        )
        return app

    def send(self, name: str, *args: int | str | bool) -> str:
        """Put a task on its queue; return the message's id.

        Raises:
            ServiceError: Redis is out of reach.
        """
        try:
            # No retry here: the caller decides, and a click must not wait for a dead broker.
            sent = self._app.send_task(name, args=args, retry=False)
        except (OperationalError, RedisError, OSError) as error:
            raise ServiceError(_unreachable(self._settings)) from error
        return str(sent.id)

    def waiting(self) -> dict[str, int]:
        """How many messages wait in each queue.

        Raises:
            ServiceError: Redis is out of reach.
        """
        names = sorted(set(QUEUES.values()))
        try:
            with Redis.from_url(
                self._settings.redis_url,
                socket_connect_timeout=SEND_SECONDS,
                socket_timeout=SEND_SECONDS,
            ) as redis:
                return {name: int(redis.llen(name)) for name in names}
        except (RedisError, ValueError, OSError) as error:
            raise ServiceError(_unreachable(self._settings)) from error

    def listening(self, seconds: float = INSPECT_SECONDS) -> dict[str, list[str]]:
        """The queues that each worker reads, for all workers that answer within ``seconds``.

        Raises:
            ServiceError: Redis is out of reach.
        """
        try:
            answers = self._app.control.inspect(timeout=seconds).active_queues() or {}
        except (OperationalError, RedisError, OSError) as error:
            raise ServiceError(_unreachable(self._settings)) from error
        return {name: [str(queue["name"]) for queue in rows] for name, rows in answers.items()}

    def close(self) -> None:
        """Close the connections to Redis."""
        self._app.close()


def _unreachable(settings: Settings) -> str:
    address = settings.redis_url.rpartition("@")[2]  # Never show a password.
    return f"Redis at {address} is out of reach; start it (`maskloop up`) or mend redis_url."
