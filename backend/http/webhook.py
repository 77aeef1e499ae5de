"""Webhooks: kept in SQL first, answered at once, worked on later by a worker.

Label Studio waits one second and never sends a webhook twice, so nothing here may take long or
depend on Redis. A message that cannot be sent is no loss: reconcile finds the row.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from backend.click.request import is_storable
from backend.tasks.services import Services
from pipeline.errors import ServiceError, UnknownRecordError
from pipeline.labelstudio.connect import WEBHOOK_ACTIONS
from pipeline.queue import FINETUNE, HANDLE_EVENT
from pipeline.record.tables import Event, now

log = logging.getLogger(__name__)

TRAINING = "START_TRAINING"
ACTIONS = (*WEBHOOK_ACTIONS, TRAINING)
LONGEST_KEY = 200
PROJECT_FIELDS = ("id", "title", "label_config")  # the rest is the project over and over again


def keep_event(services: Services, body: Any) -> int | None:
    """Write a webhook down; gives its row's id when there is work to do, None when there is not.

    Raises:
        UnknownRecordError: it is no webhook of Label Studio's.
    """
    if not isinstance(body, Mapping) or not isinstance(body.get("action"), str):
        raise UnknownRecordError("The webhook names no action; send what Label Studio sends.")
    action = body["action"]
    if action not in ACTIONS:
        services.metrics.webhooks.labels(action="other", new="no").inc()
        return None
    event = Event(key=event_key(body), action=action, payload=_payload(body))
    try:
        with services.sessions.begin() as database:
            database.add(event)
        services.metrics.webhooks.labels(action=action, new="yes").inc()
        return event.id
    except IntegrityError:  # it came before
        services.metrics.webhooks.labels(action=action, new="no").inc()
        with services.sessions() as database:
            known = select(Event).where(Event.key == event.key)
            kept = database.scalars(known).one()
        return None if kept.done_at else kept.id


def send_event(services: Services, event_id: int) -> None:
    """Hand a kept event to a worker. Redis may be down: then the row waits for reconcile."""
    with services.sessions() as database:
        event = database.get_one(Event, event_id)
    try:
        if event.action == TRAINING:
            services.queue.send(FINETUNE)
            with services.sessions.begin() as database:
                database.get_one(Event, event_id).done_at = now()
        else:
            services.queue.send(HANDLE_EVENT, event_id)
    except ServiceError as error:
        services.metrics.not_enqueued.inc()
        log.warning("Webhook %s waits for reconcile: %s", event.key, error)


def event_key(body: Mapping[str, Any]) -> str:
    """What tells one event from another: its action, what it is about, and when that changed.

    The same delivery sent twice has the same key; a press of "Start training" has no state of
    its own, so each moment's is one event.
    """
    action = str(body.get("action"))
    about = [_thing(body.get("annotation")), *_things(body.get("annotations"))]
    if not any(about):
        about = [_thing(body.get("task")), *_things(body.get("tasks"))]
    if action == TRAINING:
        project = body.get("project")
        number = project.get("id") if isinstance(project, Mapping) else None
        return f"{action}:{number}:{now().isoformat(timespec='seconds')}"
    key = ":".join([action, *filter(None, about)])
    if len(key) <= LONGEST_KEY and is_storable(key):
        return key
    return f"{action}:{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()}"


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
    except (ValueError, RecursionError):  # a number beyond all floats; too deep
        raise UnknownRecordError(
            "The webhook cannot be kept as JSON; send what Label Studio sends."
        ) from None
    return payload
