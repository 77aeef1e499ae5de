"""Which reply is the past of a request, and which region a click means."""

from __future__ import annotations

import numpy as np

from backend.request.prompts import Mark
from backend.request.session import (
    OpenRegion,
    Reply,
    exact,
    new_region_id,
    newest_by_region,
    previous,
    same_object,
    same_session,
)
from pipeline.record.tables import now

A, B, C, D = (Mark(name, "click", True, float(k), 1.0) for k, name in enumerate("abcd"))


def log(*entries: tuple[str, tuple[Mark, ...], tuple[Mark, ...]]) -> list[Reply]:
    """Replies (region, carried, own), given oldest first, as the log gives them: newest first."""
    made = [
        Reply(number, region, "Cat", carried, own, version_id=1, at=now())
        for number, (region, carried, own) in enumerate(entries, start=1)
    ]
    return made[::-1]


def test_the_previous_mask_is_the_reply_to_the_largest_part() -> None:
    known = log(("r", (), (A,)), ("r", (), (A, B)), ("r", (), (A, B, C)))
    found = previous(known, (A, B, C, D))
    assert found is not None
    assert found.id == 3
    again = previous(known, (A, B, C))
    assert again is not None
    assert again.id == 2


def test_a_reply_that_saw_an_undone_mark_is_never_used() -> None:
    known = log(("r", (), (A,)), ("r", (), (A, B)))
    found = previous(known, (A, C))
    assert found is not None
    assert found.id == 1
    assert previous(known, (C,)) is None


def test_a_moved_mark_is_another_mark() -> None:
    moved = Mark("a", "click", True, 70.0, 1.0)
    flipped = Mark("a", "click", False, A.x, A.y)
    for other in (moved, flipped):
        assert previous(log(("r", (), (A,))), (other, B)) is None


def test_the_session_is_found_by_its_own_marks() -> None:
    known = log(("r", (), (A,)), ("r", (A,), (B,)))
    found = same_session(known, (B, C))
    assert found is not None
    assert (found.region_id, found.carried) == ("r", (A,))
    assert same_session(known, (D,)) is None


def test_only_the_very_same_request_is_answered_from_the_log() -> None:
    known = log(("r", (), (A, B)))
    assert exact(known, OpenRegion("r", "Cat"), (A, B), version=1) is not None
    assert exact(known, OpenRegion("r", "Cat"), (A, B), version=2) is None  # promoted since
    assert exact(known, OpenRegion("s", "Cat"), (A, B), version=1) is None
    assert exact(known, OpenRegion("r", "Cat"), (A,), version=1) is None


def test_the_region_id_hangs_on_the_group_and_its_first_mark() -> None:
    one = new_region_id(1, 2, "Cat", A)
    assert one == new_region_id(1, 2, "Cat", A)
    box = Mark("a", "box", True, 0, 0, 1, 1)
    others = {
        new_region_id(9, 2, "Cat", A),
        new_region_id(1, 9, "Cat", A),
        new_region_id(1, 2, "Dog", A),
        new_region_id(1, 2, "Cat", B),
        new_region_id(1, 2, "Cat", box),
    }
    assert len(others | {one}) == 6


def test_the_newest_reply_of_each_region() -> None:
    known = log(("r", (), (A,)), ("s", (), (B,)), ("r", (), (A, C)))
    assert [reply.id for reply in newest_by_region(known, "Cat")] == [3, 2]
    assert newest_by_region(known, "Dog") == []


def test_what_counts_as_one_object() -> None:
    table = np.zeros((10, 10), bool)
    table[2:8] = True
    cup = np.zeros((10, 10), bool)
    cup[4:6, 4:6] = True
    assert same_object(table, table, under=False)
    assert not same_object(cup, table, under=True)  # A small thing lies on a large one.
    assert same_object(table, cup, under=True)  # The answer grew.
    assert not same_object(table, cup, under=False)
    two_things = table.copy()
    two_things[8:] = True  # IoU 0.75: a third more than the table
    assert same_object(two_things, table, under=False)
    two_things[:2] = True
    assert not same_object(two_things, table, under=False)
    nothing = np.zeros((10, 10), bool)
    assert not same_object(nothing, nothing, under=True)
