"""When something that failed is tried again: with growing pauses, and not for ever.

What fails ``MOST_ATTEMPTS`` times in a row is quarantined: nothing tries it again by itself, so one
bad image or event cannot keep a worker busy. ``maskloop jobs list`` shows it with its reason, and
``maskloop jobs retry`` lets it be tried again.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import httpx
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from pipeline.errors import DatabaseError, LabelStudioError, ServiceError
from pipeline.record.tables import Event, Task, now

MOST_ATTEMPTS = 10
FIRST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=6)

# Errors of a service that was away, and not of what was tried.
AWAY = (ServiceError, LabelStudioError, DatabaseError, OperationalError, httpx.TransportError)

Tried = type[Event] | type[Task]


def next_try(attempts: int) -> datetime:
    """When something is tried again that failed for the ``attempts``-th time in a row.

    The pauses double from one minute to six hours, so ten attempts take about ten hours.
    """
    pause: timedelta = FIRST_PAUSE * int(2 ** max(attempts - 1, 0))
    return now() + min(pause, LONGEST_PAUSE)


def is_due(table: Tried) -> ColumnElement[bool]:
    """The condition that a row's next try may be now."""
    in_time = table.try_at.is_(None) | (table.try_at <= now())
    return (table.attempts < MOST_ATTEMPTS) & in_time


def quarantined_events(session: Session, limit: int) -> list[Event]:
    """The newest events that nothing tries again."""
    statement = select(Event).where(Event.done_at.is_(None), Event.attempts >= MOST_ATTEMPTS)
    return list(session.scalars(statement.order_by(Event.id.desc()).limit(limit)))


def quarantined_tasks(session: Session, limit: int) -> list[Task]:
    """The newest tasks whose image nothing tries again."""
    statement = select(Task).where(Task.problem.is_not(None), Task.attempts >= MOST_ATTEMPTS)
    return list(session.scalars(statement.order_by(Task.id.desc()).limit(limit)))


def release(session: Session, table: Tried) -> None:
    """Let every failed row of a table be tried again now."""
    session.execute(update(table).where(table.attempts > 0).values(attempts=0, try_at=None))
