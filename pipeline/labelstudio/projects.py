"""A project of Label Studio by its number, and what its labelling config offers."""

from __future__ import annotations

from pipeline.errors import LabelStudioError
from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.types import ProjectJson


def find_project(client: LabelStudio, project_id: int) -> ProjectJson:
    """The project as the API shows it.

    Raises:
        LabelStudioError: Label Studio is out of reach or has no such project.
    """
    project = client.project(project_id)
    if project is None:
        raise LabelStudioError(
            f"Label Studio at {client.url} has no project {project_id}; look the number up in the "
            "address of its page, and give it with --project or in label_studio.project."
        )
    return project


def project_config(client: LabelStudio, project_id: int) -> LabelConfig:
    """What a project's labelling config offers.

    Raises:
        LabelStudioError: Label Studio is out of reach or has no such project.
        LabelConfigError: the config lacks what maskloop needs.
    """
    return read_label_config(str(find_project(client, project_id)["label_config"]))
