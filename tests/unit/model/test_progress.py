from __future__ import annotations

from model.progress import both


def test_both_get_every_report() -> None:
    told: list[tuple[str, int, int | None]] = []
    report = both(
        lambda done, total: told.append(("first", done, total)),
        lambda done, total: told.append(("second", done, total)),
    )
    report(1, 3)
    report(2, None)
    assert told == [("first", 1, 3), ("second", 1, 3), ("first", 2, None), ("second", 2, None)]
