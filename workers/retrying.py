"""How a task handles an error: it tries again later, or it logs the error and stops."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from celery import Task, shared_task
from celery.utils.time import get_exponential_backoff_interval
from sqlalchemy.exc import DBAPIError

from model.errors import MaskloopError
from pipeline.record.retries import AWAY

log = logging.getLogger(__name__)

# Errors that may be gone at the next try. A file that is not an image, a refused path or too little
# data fails again, so another try would only fill the log.
TRANSIENT = (*AWAY, ConnectionError, TimeoutError)
MAX_RETRIES = 8
# In seconds. Pauses double from try to try, and each is then a random share of its length.
FIRST_PAUSE, LONGEST_PAUSE = 2, 300

Result = dict[str, Any]


def is_transient(error: BaseException | None) -> bool:
    """Whether ``error``, or what caused it, may be gone at the next try."""
    while error is not None:
        if isinstance(error, TRANSIENT):
            return True
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        error = error.__cause__
    return False


def loop_task(name: str, *, retries: int = MAX_RETRIES) -> Callable[[Callable[..., Result]], Task]:
    """Make a function a Celery task called ``name`` that is tried again on transient errors.

    Any other ``MaskloopError`` is logged, and the task returns ``{"problem": message}``. Scheduled
    tasks use ``retries=0``, because the schedule starts them again anyway.
    """

    def decorate(function: Callable[..., Result]) -> Task:
        @functools.wraps(function)
        def run(task: Task, *args: Any) -> Result:
            try:
                return function(*args)
            except Exception as error:
                if is_transient(error) and task.request.retries < retries:
                    pause = get_exponential_backoff_interval(
                        FIRST_PAUSE, task.request.retries, _longest_pause(task), full_jitter=True
                    )
                    log.warning("%s%s: %s Trying again in %d s.", name, args, error, pause)
                    raise task.retry(exc=error, countdown=pause, max_retries=retries) from error
                if isinstance(error, MaskloopError):
                    log.error("%s%s: %s", name, args, error)
                    return {"problem": str(error)}
                raise

        # When a child was killed, Celery itself sends the task again, with this limit and pause.
        made: Task = shared_task(
            run, bind=True, name=name, max_retries=MAX_RETRIES, default_retry_delay=FIRST_PAUSE
        )
        return made

    return decorate


def _longest_pause(task: Task) -> int:
    # A worker holds a paused message unacknowledged. Past the visibility timeout Redis would
    # deliver a copy, each copy would pause too, and the copies would multiply until the cause of
    # the error is gone.
    options = task.app.conf.broker_transport_options
    return int(min(LONGEST_PAUSE, options.get("visibility_timeout", LONGEST_PAUSE) / 2))
