"""How long jobs tell their caller how far they are."""

from __future__ import annotations

from collections.abc import Callable

# Called with (done, total); total is None while it is not known.
Progress = Callable[[int, int | None], None]


def silent(done: int, total: int | None) -> None:
    """A progress nobody looks at."""


def both(first: Progress, second: Progress) -> Progress:
    """One progress that tells two, as a job's row and the bar of whoever waits for it."""

    def report(done: int, total: int | None) -> None:
        first(done, total)
        second(done, total)

    return report
