"""Webhooks: each is written to SQL first and answered at once, and a worker handles it later.

Label Studio waits one second and never sends a webhook twice, so nothing here may take long or
depend on Redis. When a message cannot be sent nothing is lost, because reconcile finds the row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backend.process.outbox import TRAINING
from backend.process.services import Services
from pipeline.errors import RequestError
from pipeline.labelstudio.connect import WEBHOOK_ACTIONS
from pipeline.record import events
from pipeline.record.tables import Event, now
from pipeline.record.tables.base import key

ACTIONS = (*WEBHOOK_ACTIONS, TRAINING)
PROJECT_FIELDS = ("id", "title", "label_config")  # The others are the same in every webhook.


def keep_event(services: Services, body: Any) -> int | None:
    """Write a webhook to SQL; return its row's id if there is work to do, else None.

    Raises:
        RequestError: the body is not a webhook of Label Studio.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("action"), str):
        raise RequestError("The webhook names no action; send what Label Studio sends.")
    action = body["action"]
    if action not in ACTIONS:
        services.metrics.webhooks.labels(action="other", new="no").inc()
        return None
    event = Event(key=event_key(body), action=action, payload=_payload(body))
    kept, is_new = events.keep(services.runtime.sessions, event)
    services.metrics.webhooks.labels(action=action, new="yes" if is_new else "no").inc()
    return None if kept.done_at else kept.id


def event_key(body: Mapping[str, Any]) -> str:
    """The key that identifies an event: its action, the objects it is about, and when they changed.

    A delivery that is sent twice has the same key. Pressing "Start training" changes no object, so
    all presses within one second are one event.
    """
    action = str(body.get("action"))
    about = [_thing(body.get("annotation")), *_things(body.get("annotations"))]
    if not any(about):
        about = [_thing(body.get("task")), *_things(body.get("tasks"))]
    if action == TRAINING:
        project = body.get("project")
        number = project.get("id") if isinstance(project, Mapping) else None
        return f"{action}:{number}:{now().isoformat(timespec='seconds')}"
    return key(":".join([action, *filter(None, about)]))


def _thing(value: Any) -> str:
    if not isinstance(value, Mapping) or "id" not in value:
        return ""
    return f"{value['id']}@{value.get('updated_at') or ''}"


def _things(value: Any) -> list[str]:
    return [_thing(entry) for entry in value] if isinstance(value, list) else []


def _payload(body: Mapping[str, Any]) -> dict[str, Any]:
    payload = dict(body)
    project = body.get("project")
    if isinstance(project, Mapping):
        payload["project"] = {name: project[name] for name in PROJECT_FIELDS if name in project}
    try:
        json.dumps(payload, allow_nan=False)
    except (ValueError, RecursionError):  # A number too large, or nested too deeply.
        raise RequestError(
            "The webhook cannot be kept as JSON; send what Label Studio sends."
        ) from None
    return payload
