"""Label Studio's API, as far as the loop needs it: one method for each thing asked of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

from pipeline.errors import LabelStudioError
from pipeline.labelstudio.connection import Connection, Json
from pipeline.settings import LabelStudioSettings

PAGE_SIZE = 200
IMPOSSIBLE = "only asking"  # for a field that takes no words

__all__ = ["Json", "LabelStudio", "RemoteTask", "local_file_url"]


@dataclass(frozen=True)
class RemoteTask:
    """A task as a listing shows it. ``updated_at`` moves when an annotation of it changes too."""

    id: int
    data: Json
    updated_at: datetime
    annotations: int  # skipped ones included


class LabelStudio:
    """One account on one Label Studio. Safe to share between threads.

    Every method raises LabelStudioError when Label Studio is out of reach, refuses the call or
    answers something that is not what the API promises; those that look one thing up by its id
    return None when there is no such thing.
    """

    def __init__(self, settings: LabelStudioSettings, *, timeout_seconds: float = 30) -> None:
        self._connection = Connection(settings, timeout_seconds=timeout_seconds)
        self.url = self._connection.url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def auth_header(self) -> dict[str, str]:
        """The Authorization header of this moment; ask again for each request, tokens expire."""
        return self._connection.auth_header()

    @property
    def token_expires(self) -> datetime | None:
        """When the personal access token ends; None for a legacy token, which never does."""
        return self._connection.token_expires

    def whoami(self) -> Json:
        """The account behind the token."""
        return self._connection.object("GET", "/api/current-user/whoami", "the account")

    # Projects

    def project(self, project_id: int) -> Json | None:
        return self._connection.find(f"/api/projects/{project_id}/", f"project {project_id}")

    def projects(self) -> list[Json]:
        answer = self._connection.object(
            "GET", "/api/projects/", "projects", params={"page_size": PAGE_SIZE}
        )
        return list(answer.get("results", []))

    def create_project(self, title: str, label_config: str, **fields: Any) -> int:
        body = {"title": title, "label_config": label_config, **fields}
        return int(
            self._connection.object("POST", "/api/projects/", "the project", json=body)["id"]
        )

    def update_project(self, project_id: int, **fields: Any) -> Json:
        what = f"project {project_id}"
        return self._connection.object("PATCH", f"/api/projects/{project_id}/", what, json=fields)

    # Tasks

    def tasks(self, project_id: int, *, view: int | None = None) -> Iterator[RemoteTask]:
        """Every task of a project, without its annotations; in a view's order if one is named."""
        what, seen, total, page = f"tasks of project {project_id}", 0, 1, 0
        where = {"project": project_id} if view is None else {"view": view}
        while seen < total:
            page += 1
            params = {**where, "page": page, "page_size": PAGE_SIZE, "resolve_uri": "false"}
            answer = self._connection.object("GET", "/api/tasks/", what, params=params)
            total = int(answer["total"])
            for task in answer["tasks"]:
                yield RemoteTask(
                    id=int(task["id"]),
                    data=dict(task["data"]),
                    updated_at=datetime.fromisoformat(task["updated_at"]),
                    annotations=task["total_annotations"] + task["cancelled_annotations"],
                )
            seen += len(answer["tasks"])
            if not answer["tasks"]:
                return

    def task(self, task_id: int) -> Json | None:
        return self._connection.find(
            f"/api/tasks/{task_id}/", f"task {task_id}", resolve_uri="false"
        )

    def import_tasks(self, project_id: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Create tasks, each ``{"data": {...}, ...}``; their ids in the order given."""
        answer = self._connection.object(
            "POST",
            f"/api/projects/{project_id}/import",
            "the tasks",
            json=list(tasks),
            params={"return_task_ids": "true"},
        )
        return [int(task_id) for task_id in answer["task_ids"]]

    def upload_image(self, project_id: int, name: str, data: bytes) -> int:
        """Upload one image as a task of its own; the task's id."""
        answer = self._connection.object(
            "POST",
            f"/api/projects/{project_id}/import",
            name,
            files={"file": (name, data)},
            params={"return_task_ids": "true"},
        )
        return int(answer["task_ids"][0])

    def update_task_data(self, task_id: int, data: Mapping[str, Any]) -> None:
        """Replace a task's data as a whole."""
        self._connection.call(
            "PATCH", f"/api/tasks/{task_id}/", f"task {task_id}", json={"data": dict(data)}
        )

    def delete_task(self, task_id: int) -> None:
        self._connection.call("DELETE", f"/api/tasks/{task_id}/", f"task {task_id}")

    def next_task(self, project_id: int) -> int | None:
        """The task Label Studio would hand this account now, or None when all are done.

        It locks the task for the account, just as opening the labelling page does.
        """
        found = self._connection.find(f"/api/projects/{project_id}/next/", f"project {project_id}")
        return None if found is None else int(found["id"])

    # Annotations, drafts and predictions

    def annotation(self, annotation_id: int) -> Json | None:
        return self._connection.find(
            f"/api/annotations/{annotation_id}/", f"annotation {annotation_id}"
        )

    def annotations(self, task_id: int) -> list[Json]:
        """Every annotation of a task, skipped ones included; none when the task is gone."""
        # The listing of a task's annotations leaves skipped ones out; the task itself does not.
        found = self.task(task_id)
        return [] if found is None else list(found["annotations"])

    def create_annotation(self, task_id: int, result: Sequence[Json], **fields: Any) -> Json:
        body = {"result": list(result), **fields}
        return self._connection.object(
            "POST", f"/api/tasks/{task_id}/annotations/", f"task {task_id}", json=body
        )

    def update_annotation(self, annotation_id: int, **fields: Any) -> Json:
        what = f"annotation {annotation_id}"
        return self._connection.object(
            "PATCH", f"/api/annotations/{annotation_id}/", what, json=fields
        )

    def delete_annotation(self, annotation_id: int) -> None:
        what = f"annotation {annotation_id}"
        self._connection.call("DELETE", f"/api/annotations/{annotation_id}/", what)

    def drafts(self, task_id: int) -> list[Json]:
        """What annotators did on a task and have not submitted yet; none when the task is gone."""
        path = f"/api/tasks/{task_id}/drafts"
        what = f"drafts of task {task_id}"
        found = self._connection.call("GET", path, what, missing_ok=True)
        return found if isinstance(found, list) else []

    def import_predictions(self, project_id: int, predictions: Sequence[Json]) -> int:
        """Store ``{"task", "model_version", "score", "result"}`` each; how many were stored."""
        path = f"/api/projects/{project_id}/import/predictions"
        answer = self._connection.object("POST", path, "the predictions", json=list(predictions))
        return int(answer["created"])

    def predictions(self, task_id: int) -> list[Json]:
        """Every prediction of a task, of all model versions; none when the task is gone."""
        what = f"predictions of task {task_id}"
        return list(
            self._connection.call("GET", "/api/predictions/", what, params={"task": task_id})
        )

    def update_prediction(self, prediction_id: int, **fields: Any) -> Json:
        path = f"/api/predictions/{prediction_id}/"
        return self._connection.object("PATCH", path, f"prediction {prediction_id}", json=fields)

    def delete_prediction(self, prediction_id: int) -> None:
        """Remove one prediction; fine when it is gone."""
        path = f"/api/predictions/{prediction_id}/"
        self._connection.call("DELETE", path, f"prediction {prediction_id}", missing_ok=True)

    def delete_predictions(self, project_id: int, model_version: str) -> None:
        """Remove every prediction of one model version; fine when there is none."""
        path = f"/api/projects/{project_id}/model-versions/"
        body = {"model_version": model_version}
        self._connection.call(
            "DELETE", path, f"predictions of {model_version}", json=body, missing_ok=True
        )

    # The ML backend and webhooks

    def backends(self, project_id: int) -> list[Json]:
        what = f"project {project_id}"
        return list(self._connection.call("GET", "/api/ml/", what, params={"project": project_id}))

    def backend(self, backend_id: int) -> Json | None:
        """One backend; asking makes Label Studio check its health and set it up again."""
        return self._connection.find(f"/api/ml/{backend_id}", f"ML backend {backend_id}")

    def add_backend(self, **fields: Any) -> Json:
        return self._connection.object(
            "POST", "/api/ml/", f"ML backend {fields.get('url')}", json=fields
        )

    def update_backend(self, backend_id: int, **fields: Any) -> Json:
        what = f"ML backend {fields.get('url', backend_id)}"
        return self._connection.object("PATCH", f"/api/ml/{backend_id}", what, json=fields)

    def delete_backend(self, backend_id: int) -> None:
        self._connection.call("DELETE", f"/api/ml/{backend_id}", f"ML backend {backend_id}")

    def check_backend_address(self, project_id: int, url: str) -> None:
        """Raise LabelStudioError if no ML backend may be at ``url``. Nothing is made."""
        fields = {"url": url, "project": project_id, "timeout": IMPOSSIBLE}
        self._check_address("/api/ml/", f"ML backend {url}", "timeout", fields)

    def check_webhook_address(self, project_id: int, url: str) -> None:
        """Raise LabelStudioError if no webhook may go to ``url``. Nothing is made."""
        fields = {"url": url, "project": project_id, "is_active": IMPOSSIBLE}
        self._check_address("/api/webhooks/", f"webhook {url}", "is_active", fields)

    def _check_address(self, path: str, what: str, impossible: str, fields: Json) -> None:
        # Label Studio judges all fields before it makes anything, and says no to this one; to
        # refuse the address, it says something else first.
        try:
            self._connection.call("POST", path, what, json=fields)
        except LabelStudioError as error:
            if f"refuses {what}: {impossible}: " not in str(error):
                raise

    def interactive(self, backend_id: int, task_id: int, result: Sequence[Json]) -> Json:
        """What a backend answers to prompts on a task, asked as the labelling page asks.

        Label Studio answers ``{"data": ...}``, or ``{"errors": [...]}`` where the backend failed.
        """
        return self._connection.object(
            "POST",
            f"/api/ml/{backend_id}/interactive-annotating",
            f"ML backend {backend_id}",
            json={"task": task_id, "context": {"result": list(result)}},
        )

    def webhooks(self, project_id: int) -> list[Json]:
        what = f"webhooks of project {project_id}"
        return list(
            self._connection.call("GET", "/api/webhooks/", what, params={"project": project_id})
        )

    def add_webhook(self, **fields: Any) -> Json:
        return self._connection.object(
            "POST", "/api/webhooks/", f"webhook {fields.get('url')}", json=fields
        )

    def update_webhook(self, webhook_id: int, **fields: Any) -> Json:
        what = f"webhook {fields.get('url', webhook_id)}"
        return self._connection.object("PATCH", f"/api/webhooks/{webhook_id}/", what, json=fields)

    def delete_webhook(self, webhook_id: int) -> None:
        self._connection.call("DELETE", f"/api/webhooks/{webhook_id}/", f"webhook {webhook_id}")

    # Views of the data manager

    def views(self, project_id: int) -> list[Json]:
        what = f"views of project {project_id}"
        return list(
            self._connection.call("GET", "/api/dm/views/", what, params={"project": project_id})
        )

    def save_view(self, project_id: int, view_id: int | None, data: Json) -> int:
        """Make a view, or replace one; its id."""
        body = {"project": project_id, "data": data}
        if view_id is None:
            return int(
                self._connection.object("POST", "/api/dm/views/", "the view", json=body)["id"]
            )
        path = f"/api/dm/views/{view_id}/"
        return int(self._connection.object("PATCH", path, f"view {view_id}", json=body)["id"])


def local_file_url(path_in_root: str) -> str:
    """The task URL of a file below the folder Label Studio serves local files from."""
    return f"/data/local-files/?d={quote(path_in_root)}"
