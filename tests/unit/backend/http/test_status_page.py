"""The status page: all values of the report are on it, as text and never as markup."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from backend.http.status_page import ago, page

MOMENT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOSTILE = "<script>alert('&amp;\"')</script>"
EMPTY: dict[str, Any] = {
    "project": None,
    "tasks": {},
    "tasks_with_problems": 0,
    "images": 0,
    "encoded_images": 0,
    "accepted_regions": 0,
    "new_regions": 0,
    "new_regions_for_a_finetune": 20,
    "finetune_due": False,
    "mean_clicks": None,
    "clicks_answered": 0,
    "click_p50_ms": None,
    "click_p95_ms": None,
    "serving": None,
    "serving_since": None,
    "last_decision": None,
    "round": None,
    "jobs": [],
    "queues_problem": None,
    "silent": [],
}
FULL = EMPTY | {
    "tasks": {HOSTILE: 3},
    "tasks_with_problems": 2,
    "serving": HOSTILE,
    "serving_since": (MOMENT - timedelta(hours=3)).isoformat(),
    "last_decision": {
        "candidate": HOSTILE,
        "promoted": False,
        "reason": HOSTILE,
        "at": MOMENT.isoformat(),
    },
    "round": {"project": 1, "number": 4, "tasks": 9, "accepted": 2, "in_label_studio": True},
    "jobs": [
        {
            "kind": "finetune",
            "status": "running",
            "done": 120,
            "total": 300,
            "started": MOMENT.isoformat(),
            "message": None,
        },
        {
            "kind": "mirror",
            "status": "failed",
            "done": 0,
            "total": None,
            "started": MOMENT.isoformat(),
            "message": HOSTILE,
        },
    ],
    "mean_clicks": 2.25,
    "click_p50_ms": 84.2,
    "click_p95_ms": 140.9,
    "finetune_due": True,
    "queues_problem": HOSTILE,
    "silent": [HOSTILE],
}


class Reader(HTMLParser):
    """What a browser reads from a page: its tags, its addresses, and its words."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


@pytest.mark.parametrize("hostile", [HOSTILE, "</style>", "\N{SNOWMAN} \x1b[31m"])
def test_other_peoples_words_are_text_and_nothing_else(hostile: str) -> None:
    def swap(value: Any) -> Any:
        if isinstance(value, dict):
            return {swap(key): swap(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [swap(entry) for entry in value]
        return hostile if value == HOSTILE else value

    plain = Reader(page(FULL, {"Label Studio": "http://x/"}, MOMENT))
    read = Reader(page(swap(FULL), {hostile: f'http://x/"{hostile}'}, MOMENT))
    assert read.tags == plain.tags
    assert "script" not in read.tags
    assert read.text.count(hostile) == 8
    assert read.links == [f'http://x/"{hostile}']


def test_it_says_how_the_loop_stands() -> None:
    text = Reader(page(FULL, {}, MOMENT)).text
    for words in (
        "chosen 3 hours ago",
        "refused",
        "120 of 300",
        "2 of 9 tasks accepted",
        "half within 84 ms, 95 % within 141 ms",
        "2.2 clicks each",
        "The images of 2 tasks",
    ):
        assert words in text


def test_a_loop_where_nothing_has_happened_has_a_page() -> None:
    read = Reader(page(EMPTY, {"FiftyOne": "http://127.0.0.1:5151"}, MOMENT))
    assert read.text.count("none yet") == 4
    assert read.links == ["http://127.0.0.1:5151"]  # The page loads nothing else.


def test_how_long_ago() -> None:
    for seconds, words in (
        (-5, "just now"),
        (59, "just now"),
        (61, "1 minute ago"),
        (7300, "2 hours ago"),
        (90_000, "1 day ago"),
    ):
        assert ago((MOMENT - timedelta(seconds=seconds)).isoformat(), MOMENT) == words
