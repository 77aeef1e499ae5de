"""How a long job tells its caller how much of it is done."""

from __future__ import annotations

from collections.abc import Callable

# Called with (done, total); total is None while it is not known.
Progress = Callable[[int, int | None], None]


def silent(done: int, total: int | None) -> None:
    """A progress that nobody looks at."""


def both(first: Progress, second: Progress) -> Progress:
    """One progress that reports to two others, such as a job's row and a progress bar."""

    def report(done: int, total: int | None) -> None:
        first(done, total)
        second(done, total)

    return report
