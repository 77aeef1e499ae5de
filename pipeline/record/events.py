"""Rows of webhook deliveries: written before they are answered, handled later."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import delete as remove
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import UnknownRecordError
from pipeline.record.retries import MOST_ATTEMPTS, is_due, next_try
from pipeline.record.tables import Event, now

# After this time reconcile has read the change of a failing event from the API anyway.
GIVE_UP = timedelta(days=1)


def keep(sessions: sessionmaker[Session], event: Event) -> tuple[Event, bool]:
    """Write a delivery in its own transaction.

    Returns:
        The row, and whether it is new; the same delivery sent twice is one row.
    """
    key = event.key
    try:
        with sessions.begin() as session:
            session.add(event)
        return event, True
    except IntegrityError:  # It arrived before.
        with sessions() as session:
            return session.scalars(select(Event).where(Event.key == key)).one(), False


def get(session: Session, event_id: int) -> Event:
    """The event with this id.

    Raises:
        UnknownRecordError: there is none.
    """
    event = session.get(Event, event_id)
    if event is None:
        raise UnknownRecordError(f"There is no event {event_id}; it needs no handling.")
    return event


def overdue(session: Session, moment: datetime) -> list[int]:
    """Ids of the unfinished events that were received before ``moment`` and may be tried now,
    oldest first."""
    statement = select(Event.id).where(
        Event.done_at.is_(None), Event.received_at < moment, is_due(Event)
    )
    return list(session.scalars(statement.order_by(Event.id)))


def close(session: Session, event_id: int, problem: str | None) -> None:
    """Note that an event is done, with a sentence about what could not be read, if any."""
    event = session.get_one(Event, event_id)
    event.problem = problem
    event.done_at = now()


def note_failure(session: Session, event_id: int, problem: str, *, counts: bool) -> None:
    """Note why an event could not be handled; it stays open and is tried again.

    Args:
        counts: the event itself may be the reason, so it is tried again after a pause, and not for
            ever. Otherwise a service was away, and the next occasion will do.
    """
    event = session.get_one(Event, event_id)
    event.problem = problem
    if counts:
        event.attempts += 1
        event.try_at = next_try(event.attempts)
    if now() - event.received_at > GIVE_UP:
        event.attempts = MOST_ATTEMPTS


def done_before(session: Session, moment: datetime) -> list[int]:
    """Ids of the events that were handled before ``moment``."""
    return list(session.scalars(select(Event.id).where(Event.done_at < moment)))


def delete(session: Session, ids: Collection[int]) -> None:
    """Remove events."""
    session.execute(remove(Event).where(Event.id.in_(ids)))


def count_open(session: Session) -> int:
    """How many events are unfinished."""
    return session.scalar(select(func.count(Event.id)).where(Event.done_at.is_(None))) or 0
