"""What each kind of webhook asks of us. It says where to look; the API says what is there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import ImageSourceError, LabelStudioError
from pipeline.images.catalog import Source, task_row
from pipeline.labelstudio.client import Json, LabelStudio
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.queue import FINETUNE, Enqueuer
from pipeline.record.tables import Task
from pipeline.settings import Settings
from pipeline.storage.store import Store
from pipeline.sync.annotations import Applied, apply_annotation, remove_annotations, remove_tasks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What bringing our record up to date with Label Studio takes."""

    sessions: sessionmaker[Session]
    client: LabelStudio
    store: Store
    source: Source
    settings: Settings

    def apply(self, task_id: int, annotation: Json, config: LabelConfig) -> Applied:
        """One annotation of the API into rows. ``task_id`` is a row's."""
        return apply_annotation(
            self.sessions, self.store, self.source, self.settings, task_id, annotation, config
        )


def work(parts: Parts, action: str, payload: Json) -> list[str]:
    """Do what one webhook delivery asks for; sentences about regions that could not be read.

    Raises:
        MaskloopError: it could not be done, and is worth trying again.
    """
    match action:
        case "ANNOTATION_CREATED" | "ANNOTATIONS_CREATED" | "ANNOTATION_UPDATED":
            # Of several at once, Label Studio puts the list where the one would be.
            ids = _ids(payload.get("annotation"))
            return [problem for each in ids for problem in _look_at(parts, each)]
        case "ANNOTATIONS_DELETED":  # it names no task
            with parts.sessions.begin() as session:
                remove_annotations(session, _ids(payload.get("annotations")))
        case "TASKS_CREATED":
            project_id = int(payload["project"]["id"])
            field = project_config(parts.client, project_id).image_field
            with parts.sessions.begin() as session:
                for task in payload.get("tasks") or []:
                    task_of(session, project_id, task["id"], task["data"], field)
        case "TASKS_DELETED":
            gone = select(Task).where(Task.ls_task_id.in_(_ids(payload.get("tasks"))))
            with parts.sessions.begin() as session:
                remove_tasks(session, session.scalars(gone).all())
        case "START_TRAINING":  # kept while Redis was down; the button asks for nothing else
            enqueuer = Enqueuer(parts.settings)
            enqueuer.send(FINETUNE)
            enqueuer.close()
        case _:
            log.debug("event %s concerns nothing we keep", action)
    return []


def project_config(client: LabelStudio, project_id: int) -> LabelConfig:
    """What a project's labelling config offers.

    Raises:
        LabelStudioError: out of reach, or no such project.
        LabelConfigError: it lacks what maskloop needs.
    """
    project = client.project(project_id)
    if project is None:
        raise LabelStudioError(
            f"Label Studio at {client.url} has no project {project_id}; "
            "set label_studio.project to one it has."
        )
    return read_label_config(str(project["label_config"]))


def task_of(
    session: Session, project_id: int, ls_task_id: int, data: dict[str, Any], field: str
) -> Task:
    """The row of a task as Label Studio shows it, made when there is none.

    One without an address that can be used has a row all the same, which says why.

    Args:
        field: of ``data``, with the image's address.
    """
    url = data.get(field)
    try:
        task = task_row(session, project_id, ls_task_id, url if isinstance(url, str) else "")
    except ImageSourceError as error:  # one such task must not stop the others
        task = task_row(session, project_id, ls_task_id, "")
        task.problem = str(error)
        return task
    if not task.url:
        task.problem = (
            f"The task has no address in its field {field!r}, where the labelling config "
            "looks for the image; add it to the task's data."
        )
    return task


def _look_at(parts: Parts, ls_annotation_id: int) -> tuple[str, ...]:
    """Bring one annotation up to date."""
    annotation = parts.client.annotation(ls_annotation_id)
    if annotation is None:
        with parts.sessions.begin() as session:
            remove_annotations(session, [ls_annotation_id])
        return ()
    project_id, ls_task_id = int(annotation["project"]), int(annotation["task"])
    config = project_config(parts.client, project_id)
    with parts.sessions() as session:
        row = select(Task).where(Task.ls_project_id == project_id, Task.ls_task_id == ls_task_id)
        known = session.scalars(row).first()
    if known is None:
        found = parts.client.task(ls_task_id)
        if found is None:
            return ()  # deleted meanwhile, the annotation with it
        with parts.sessions.begin() as session:
            known = task_of(session, project_id, ls_task_id, found["data"], config.image_field)
    return parts.apply(known.id, annotation, config).problems


def _ids(things: Json | Sequence[Json] | None) -> list[int]:
    if isinstance(things, dict):
        things = [things]
    return [int(thing["id"]) for thing in things or () if "id" in thing]
