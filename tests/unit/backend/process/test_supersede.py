"""A newer request replaces the older ones of its session, and none of other sessions."""

from __future__ import annotations

import threading
from collections.abc import Callable

from backend.process.supersede import MOST, Latest


def test_a_newer_request_makes_the_older_stale() -> None:
    latest = Latest()
    first = latest.enter("a")
    assert not first.is_over()
    second = latest.enter("a")
    assert first.is_over()
    assert not second.is_over()
    third = latest.enter("a")
    assert (first.is_over(), second.is_over(), third.is_over()) == (True, True, False)


def test_sessions_do_not_mind_each_other() -> None:
    latest = Latest()
    mine = latest.enter((1, 2, "a"))
    others = [latest.enter((1, 2, "b")), latest.enter((1, 3, "a")), latest.enter((2, 2, "a"))]
    assert not mine.is_over()
    assert not any(stale.is_over() for stale in others)


def test_what_was_forgotten_is_answered_rather_than_dropped() -> None:
    latest = Latest()
    forgotten = latest.enter("a")
    for number in range(MOST):
        latest.enter(number)
    assert not forgotten.is_over()


def test_a_session_that_goes_on_is_not_forgotten() -> None:
    latest = Latest()
    old = latest.enter("a")
    for number in range(MOST - 1):
        latest.enter(number)
    newest = latest.enter("a")  # Now it is the last one to be forgotten.
    for number in range(MOST, 2 * MOST - 2):
        latest.enter(number)
    assert old.is_over()
    assert not newest.is_over()


def test_of_requests_from_many_threads_one_is_the_latest() -> None:
    latest = Latest()
    together = threading.Barrier(8)
    entered: list[Callable[[], bool]] = []

    def ask() -> None:
        together.wait(timeout=10)
        for _ in range(100):
            entered.append(latest.enter("a"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(entered) == 800
    assert [stale.is_over() for stale in entered].count(False) == 1
