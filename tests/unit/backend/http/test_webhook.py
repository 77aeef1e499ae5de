"""The key that identifies a webhook's event."""

from __future__ import annotations

from typing import Any

from backend.http.webhook import event_key


def annotation(action: str, number: int, at: str) -> dict[str, Any]:
    return {"action": action, "annotation": {"id": number, "updated_at": at}, "project": {"id": 1}}


def test_the_same_delivery_has_the_same_key() -> None:
    first = annotation("ANNOTATION_UPDATED", 5, "10:00")
    assert event_key(first) == event_key(dict(first)) == "ANNOTATION_UPDATED:5@10:00"


def test_a_later_change_or_another_thing_has_another_key() -> None:
    keys = {
        event_key(annotation("ANNOTATION_UPDATED", 5, "10:00")),
        event_key(annotation("ANNOTATION_UPDATED", 5, "10:01")),
        event_key(annotation("ANNOTATION_UPDATED", 6, "10:00")),
        event_key(annotation("ANNOTATION_CREATED", 5, "10:00")),
        event_key({"action": "TASKS_CREATED", "tasks": [{"id": 5, "updated_at": "10:00"}]}),
    }
    assert len(keys) == 5


def test_many_things_make_a_short_key_of_their_own() -> None:
    def tasks(count: int) -> dict[str, Any]:
        return {"action": "TASKS_DELETED", "tasks": [{"id": n} for n in range(count)]}

    assert event_key(tasks(400)) != event_key(tasks(401))
    assert len(event_key(tasks(5000))) < 255


def test_a_deleted_annotation_is_known_by_its_id_alone() -> None:
    body = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 2}], "project": {"id": 1}}
    assert event_key(body) == "ANNOTATIONS_DELETED:2@"
