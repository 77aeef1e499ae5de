"""Encodes images before their tasks are opened."""

from __future__ import annotations

from dataclasses import dataclass

from model.errors import MaskloopError
from model.progress import Progress, silent
from pipeline.images.catalog import task_of
from pipeline.labelstudio.projects import project_config
from pipeline.record import tasks
from pipeline.runtime import Runtime


@dataclass(frozen=True)
class EncodeReport:
    """The result of encoding a project; ``problems`` maps task id in Label Studio to a sentence."""

    tasks: int
    encoded: int
    problems: dict[int, str]


def encode_task(runtime: Runtime, task_id: int) -> int:
    """Fetch and encode the image of a task row; quick when this was done before.

    An image that the store has lost is fetched again, because the error message about a lost image
    tells people to encode it.

    Returns:
        The image's id.

    Raises:
        UnknownRecordError: there is no such task row.
        ImageSourceError, ImageError, StoreError: the image cannot be fetched, read or stored.
    """
    _, model = runtime.serving.current()
    with runtime.sessions() as session:
        task = tasks.get(session, task_id)
    image = runtime.catalog.image_of(task, whole=True)
    runtime.embeddings.ensure(image.id, model)
    return image.id


def register_tasks(runtime: Runtime, project_id: int) -> list[int]:
    """Make a row for every task of a Label Studio project.

    Returns:
        The ids of the rows whose task has an image address.

    Raises:
        LabelStudioError: Label Studio is out of reach, or has no such project.
        LabelConfigError: the project's labelling config shows no image.
    """
    field = project_config(runtime.label_studio, project_id).image_field
    remote = list(runtime.label_studio.tasks(project_id))
    with runtime.sessions.begin() as session:
        rows = [task_of(session, project_id, task.id, task.data, field) for task in remote]
        session.flush()
        return [row.id for row in rows if row.url]


def encode_project(runtime: Runtime, project_id: int, progress: Progress = silent) -> EncodeReport:
    """Encode every image of a project in this process. An image that fails does not stop the rest.

    Raises:
        LabelStudioError, LabelConfigError: the project cannot be listed.
    """
    rows = register_tasks(runtime, project_id)
    problems = {}
    for done, row in enumerate(rows):
        progress(done, len(rows))
        try:
            encode_task(runtime, row)
        except MaskloopError as error:
            with runtime.sessions() as session:
                problems[tasks.get(session, row).ls_task_id] = str(error)
    progress(len(rows), len(rows))
    return EncodeReport(len(rows), len(rows) - len(problems), problems)
