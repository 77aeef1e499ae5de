"""Handles each kind of webhook. A webhook says what changed; the new state is read from the API."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from model.errors import MaskloopError
from pipeline.images.catalog import task_of
from pipeline.labelstudio.connection import Json
from pipeline.labelstudio.projects import project_config
from pipeline.queue import FINETUNE
from pipeline.record import annotation_rows, events, tasks
from pipeline.record.retries import AWAY
from pipeline.runtime import Runtime
from pipeline.sync.annotations import apply_annotation

log = logging.getLogger(__name__)


def handle_event(runtime: Runtime, event_id: int) -> None:
    """Handle one stored webhook delivery; nothing happens when it was handled before.

    Raises:
        UnknownRecordError: there is no such event.
        MaskloopError: it could not be handled; the reason is kept with the event, which stays open
            until a retry or reconcile handles it.
    """
    with runtime.sessions() as session:
        event = events.get(session, event_id)
    if event.done_at is not None:
        return
    try:
        problems = work(runtime, event.action, event.payload)
    except Exception as error:
        with runtime.sessions.begin() as session:
            away = isinstance(error, AWAY)
            events.note_failure(session, event_id, sentence(error), counts=not away)
        raise
    with runtime.sessions.begin() as session:
        events.close(session, event_id, "; ".join(problems) or None)


def work(runtime: Runtime, action: str, payload: Json) -> list[str]:
    """Do what one webhook delivery requires.

    Returns:
        Sentences about regions that could not be read.

    Raises:
        MaskloopError: it could not be done, and may succeed at the next attempt.
    """
    match action:
        case "ANNOTATION_CREATED" | "ANNOTATIONS_CREATED" | "ANNOTATION_UPDATED":
            # For several annotations, Label Studio sends a list in the field of the single one.
            ids = _ids(payload.get("annotation"))
            return [problem for each in ids for problem in _look_at(runtime, each)]
        case "ANNOTATIONS_DELETED":  # its payload names no task
            with runtime.sessions.begin() as session:
                annotation_rows.remove(session, _ids(payload.get("annotations")))
        case "TASKS_CREATED":
            project_id = int(payload["project"]["id"])
            field = project_config(runtime.label_studio, project_id).image_field
            with runtime.sessions.begin() as session:
                for task in payload.get("tasks") or []:
                    task_of(session, project_id, task["id"], task["data"], field)
        case "TASKS_DELETED":
            with runtime.sessions.begin() as session:
                gone = tasks.by_ls_ids(session, _ids(payload.get("tasks")))
                annotation_rows.remove_tasks(session, gone)
        case "START_TRAINING":  # stored while Redis was down; the button has no other effect
            runtime.enqueuer.send(FINETUNE, True)
        case _:
            log.debug("Event %s concerns nothing in the record.", action)
    return []


def sentence(error: Exception) -> str:
    """The sentence for an error, to be stored or reported; an unexpected error is also logged."""
    if isinstance(error, MaskloopError):
        return str(error)
    log.error("An unexpected error occurred while handling a change.", exc_info=error)
    return f"unexpected: {error!r}"


def _look_at(runtime: Runtime, ls_annotation_id: int) -> tuple[str, ...]:
    """Bring one annotation up to date."""
    annotation = runtime.label_studio.annotation(ls_annotation_id)
    if annotation is None:
        with runtime.sessions.begin() as session:
            annotation_rows.remove(session, [ls_annotation_id])
        return ()
    project_id, ls_task_id = int(annotation["project"]), int(annotation["task"])
    config = project_config(runtime.label_studio, project_id)
    with runtime.sessions() as session:
        known = tasks.find(session, project_id, ls_task_id)
    if known is None:
        found = runtime.label_studio.task(ls_task_id)
        if found is None:
            return ()  # the task was deleted meanwhile, and its annotation with it
        with runtime.sessions.begin() as session:
            known = task_of(session, project_id, ls_task_id, found["data"], config.image_field)
    return apply_annotation(runtime, known.id, annotation, config).problems


def _ids(things: Json | Sequence[Json] | None) -> list[int]:
    if isinstance(things, dict):
        things = [things]
    return [int(thing["id"]) for thing in things or () if "id" in thing]
