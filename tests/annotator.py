"""A Label Studio client that can also annotate, import and delete, as people do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.types import AnnotationJson, RegionJson


class Annotator(LabelStudio):
    """One account on one Label Studio. Raises LabelStudioError as the client does."""

    def import_tasks(self, project_id: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Create tasks, each ``{"data": {...}, ...}``; returns their ids in the given order."""
        answer = self._connection.object(
            "POST",
            f"/api/projects/{project_id}/import",
            "the tasks",
            json=list(tasks),
            params={"return_task_ids": "true"},
        )
        return [int(task_id) for task_id in answer["task_ids"]]

    def delete_task(self, task_id: int) -> None:
        self._connection.call("DELETE", f"/api/tasks/{task_id}/", f"task {task_id}")

    def next_task(self, project_id: int) -> int | None:
        """The task that Label Studio gives this account next, or None when all are done.

        It locks the task for the account, as opening the labelling page does.
        """
        found = self._connection.find(f"/api/projects/{project_id}/next/", f"project {project_id}")
        return None if found is None else int(found["id"])

    def create_annotation(
        self, task_id: int, result: Sequence[RegionJson], **fields: Any
    ) -> AnnotationJson:
        body = {"result": list(result), **fields}
        return self._connection.object(
            "POST", f"/api/tasks/{task_id}/annotations/", f"task {task_id}", json=body
        )

    def update_annotation(self, annotation_id: int, **fields: Any) -> AnnotationJson:
        what = f"annotation {annotation_id}"
        return self._connection.object(
            "PATCH", f"/api/annotations/{annotation_id}/", what, json=fields
        )

    def delete_annotation(self, annotation_id: int) -> None:
        what = f"annotation {annotation_id}"
        self._connection.call("DELETE", f"/api/annotations/{annotation_id}/", what)


def local_file_url(path_in_root: str) -> str:
    """The task URL of a file in the folder from which Label Studio serves local files."""
    return f"/data/local-files/?d={quote(path_in_root)}"
