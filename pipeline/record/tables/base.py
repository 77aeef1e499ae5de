"""The base class of all tables, with their names for constraints and their types of columns."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, MetaData, String, Text, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase

# Names for every constraint, so that a migration can drop one on any database.
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}


def now() -> datetime:
    """The current time in UTC, with its time zone."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone on every database. SQLite does not store zones, so UTC is added back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


LONGEST_KEY = 255  # characters; an index of PostgreSQL cannot hold texts of any length
KEPT = 100  # first characters of a longer name that stay readable


def is_storable(text: str) -> bool:
    """Whether ``words`` leaves a text as it is."""
    return words(text) == text


def words(text: str) -> str:
    """A text as every database can hold it: NUL and halves of characters, which JSON may contain
    and PostgreSQL refuses, become U+FFFD."""
    whole = text.encode(errors="surrogatepass").decode(errors="replace")
    return whole.replace("\0", "\ufffd")


def key(text: str) -> str:
    """A name from elsewhere as a column with an index holds it: at most ``LONGEST_KEY`` characters.

    A longer name is cut, and its hash takes the place of the rest. The key of a key is itself.
    """
    clean = words(text)
    if len(clean) <= LONGEST_KEY:
        return clean
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{clean[:KEPT]}~{digest}"


class Words(TypeDecorator[str]):
    """A text of any length from elsewhere, such as a label; written as ``words`` gives it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else words(value)


class Key(TypeDecorator[str]):
    """A name from elsewhere that rows are found by; written and compared as ``key`` gives it."""

    impl = String(LONGEST_KEY)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else key(value)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {datetime: UtcDateTime(), dict[str, Any]: JSON(), list[Any]: JSON()}
