"""How long jobs tell their caller how far they are."""

from __future__ import annotations

from collections.abc import Callable

# Called with (done, total); total is None while it is not known.
Progress = Callable[[int, int | None], None]


def silent(done: int, total: int | None) -> None:
    """A progress nobody looks at."""
