"""The part of Label Studio's API that the loop needs: one method for each call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

from pipeline.errors import LabelStudioError
from pipeline.labelstudio.connection import Connection, Json
from pipeline.labelstudio.types import (
    AnnotationJson,
    BackendJson,
    DraftJson,
    PredictionJson,
    ProjectJson,
    RegionJson,
    TaskJson,
    ViewData,
    ViewJson,
    WebhookJson,
)
from pipeline.settings import LabelStudioSettings

PAGE_SIZE = 200  # entries of a listing fetched at a time
IMPOSSIBLE = "only asking"  # a value that Label Studio refuses for a field that is not text


@dataclass(frozen=True)
class RemoteTask:
    """A task in a listing. ``updated_at`` also changes when one of its annotations changes."""

    id: int
    data: Json
    updated_at: datetime
    annotations: int  # skipped ones included


class LabelStudio:
    """One account on one Label Studio. Safe to share between threads.

    Every method raises LabelStudioError when Label Studio is out of reach, refuses the call or
    gives an answer that does not fit its API. Methods that look up one thing by its id return None
    when it does not exist.

    Raises:
        SettingsError: the settings have no token.
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
        """The current Authorization header. Tokens expire, so ask again for each request."""
        return self._connection.auth_header()

    @property
    def token_expires(self) -> datetime | None:
        """When the personal access token expires; None for a legacy token, which never expires."""
        return self._connection.token_expires

    def whoami(self) -> Json:
        """The account behind the token."""
        return self._connection.object("GET", "/api/current-user/whoami", "the account")

    # Projects

    def project(self, project_id: int) -> ProjectJson | None:
        return self._connection.find(f"/api/projects/{project_id}/", f"project {project_id}")

    def projects(self) -> list[ProjectJson]:
        answer = self._connection.object(
            "GET", "/api/projects/", "projects", params={"page_size": PAGE_SIZE}
        )
        return list(answer.get("results", []))

    def create_project(self, title: str, label_config: str, **fields: Any) -> int:
        body = {"title": title, "label_config": label_config, **fields}
        return int(
            self._connection.object("POST", "/api/projects/", "the project", json=body)["id"]
        )

    def update_project(self, project_id: int, **fields: Any) -> ProjectJson:
        what = f"project {project_id}"
        return self._connection.object("PATCH", f"/api/projects/{project_id}/", what, json=fields)

    # Tasks

    def tasks(self, project_id: int, *, view: int | None = None) -> Iterator[RemoteTask]:
        """Every task of a project, without its annotations; in the order of ``view`` if given."""
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

    def task(self, task_id: int) -> TaskJson | None:
        return self._connection.find(
            f"/api/tasks/{task_id}/", f"task {task_id}", resolve_uri="false"
        )

    def upload_image(self, project_id: int, name: str, data: bytes) -> int:
        """Upload one image as a task of its own; return the task's id."""
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

    # Annotations, drafts and predictions

    def annotation(self, annotation_id: int) -> AnnotationJson | None:
        return self._connection.find(
            f"/api/annotations/{annotation_id}/", f"annotation {annotation_id}"
        )

    def annotations(self, task_id: int) -> list[AnnotationJson]:
        """Every annotation of a task, skipped ones included; none when the task is gone."""
        # The listing of a task's annotations leaves skipped ones out; the task itself does not.
        found = self.task(task_id)
        return [] if found is None else list(found["annotations"])

    def drafts(self, task_id: int) -> list[DraftJson]:
        """What annotators did on a task and have not submitted yet; none when the task is gone."""
        path = f"/api/tasks/{task_id}/drafts"
        what = f"drafts of task {task_id}"
        found = self._connection.call("GET", path, what, missing_ok=True)
        return found if isinstance(found, list) else []

    def import_predictions(self, project_id: int, predictions: Sequence[PredictionJson]) -> int:
        """Store predictions; return how many were stored.

        Each needs the keys ``task``, ``model_version``, ``score`` and ``result``.
        """
        path = f"/api/projects/{project_id}/import/predictions"
        answer = self._connection.object("POST", path, "the predictions", json=list(predictions))
        return int(answer["created"])

    def predictions(self, task_id: int) -> list[PredictionJson]:
        """Every prediction of a task, of all model versions; none when the task is gone."""
        what = f"predictions of task {task_id}"
        return list(
            self._connection.call("GET", "/api/predictions/", what, params={"task": task_id})
        )

    def update_prediction(self, prediction_id: int, **fields: Any) -> PredictionJson:
        path = f"/api/predictions/{prediction_id}/"
        return self._connection.object("PATCH", path, f"prediction {prediction_id}", json=fields)

    def delete_prediction(self, prediction_id: int) -> None:
        """Remove one prediction; do nothing when it is gone."""
        path = f"/api/predictions/{prediction_id}/"
        self._connection.call("DELETE", path, f"prediction {prediction_id}", missing_ok=True)

    def delete_predictions(self, project_id: int, model_version: str) -> None:
        """Remove every prediction of one model version, if there is any."""
        path = f"/api/projects/{project_id}/model-versions/"
        body = {"model_version": model_version}
        self._connection.call(
            "DELETE", path, f"predictions of {model_version}", json=body, missing_ok=True
        )

    # The ML backend and webhooks

    def backends(self, project_id: int) -> list[BackendJson]:
        what = f"project {project_id}"
        return list(self._connection.call("GET", "/api/ml/", what, params={"project": project_id}))

    def backend(self, backend_id: int) -> BackendJson | None:
        """One backend; asking makes Label Studio check its health and set it up again."""
        return self._connection.find(f"/api/ml/{backend_id}", f"ML backend {backend_id}")

    def add_backend(self, **fields: Any) -> BackendJson:
        return self._connection.object(
            "POST", "/api/ml/", f"ML backend {fields.get('url')}", json=fields
        )

    def update_backend(self, backend_id: int, **fields: Any) -> BackendJson:
        what = f"ML backend {fields.get('url', backend_id)}"
        return self._connection.object("PATCH", f"/api/ml/{backend_id}", what, json=fields)

    def delete_backend(self, backend_id: int) -> None:
        self._connection.call("DELETE", f"/api/ml/{backend_id}", f"ML backend {backend_id}")

    def check_backend_address(self, project_id: int, url: str) -> None:
        """Raise LabelStudioError if Label Studio refuses a backend at ``url``; create nothing."""
        fields = {"url": url, "project": project_id, "timeout": IMPOSSIBLE}
        self._check_address("/api/ml/", f"ML backend {url}", "timeout", fields)

    def check_webhook_address(self, project_id: int, url: str) -> None:
        """Raise LabelStudioError if Label Studio refuses a webhook to ``url``; create nothing."""
        fields = {"url": url, "project": project_id, "is_active": IMPOSSIBLE}
        self._check_address("/api/webhooks/", f"webhook {url}", "is_active", fields)

    def _check_address(self, path: str, what: str, impossible: str, fields: Json) -> None:
        # Label Studio checks all fields before it creates anything, and always refuses this one.
        # If it refuses the address, its answer names the address first.
        try:
            self._connection.call("POST", path, what, json=fields)
        except LabelStudioError as error:
            if f"refuses {what}: {impossible}: " not in str(error):
                raise

    def interactive(self, backend_id: int, task_id: int, result: Sequence[RegionJson]) -> Json:
        """The answer of a backend to prompts on a task, requested as the labelling page does it.

        Label Studio answers ``{"data": ...}``, or ``{"errors": [...]}`` where the backend failed.
        """
        return self._connection.object(
            "POST",
            f"/api/ml/{backend_id}/interactive-annotating",
            f"ML backend {backend_id}",
            json={"task": task_id, "context": {"result": list(result)}},
        )

    def webhooks(self, project_id: int) -> list[WebhookJson]:
        what = f"webhooks of project {project_id}"
        return list(
            self._connection.call("GET", "/api/webhooks/", what, params={"project": project_id})
        )

    def add_webhook(self, **fields: Any) -> WebhookJson:
        return self._connection.object(
            "POST", "/api/webhooks/", f"webhook {fields.get('url')}", json=fields
        )

    def update_webhook(self, webhook_id: int, **fields: Any) -> WebhookJson:
        what = f"webhook {fields.get('url', webhook_id)}"
        return self._connection.object("PATCH", f"/api/webhooks/{webhook_id}/", what, json=fields)

    def delete_webhook(self, webhook_id: int) -> None:
        self._connection.call("DELETE", f"/api/webhooks/{webhook_id}/", f"webhook {webhook_id}")

    # Views of the data manager

    def views(self, project_id: int) -> list[ViewJson]:
        what = f"views of project {project_id}"
        return list(
            self._connection.call("GET", "/api/dm/views/", what, params={"project": project_id})
        )

    def save_view(self, project_id: int, view_id: int | None, data: ViewData) -> int:
        """Make a view, or replace one; return its id."""
        body = {"project": project_id, "data": data}
        if view_id is None:
            return int(
                self._connection.object("POST", "/api/dm/views/", "the view", json=body)["id"]
            )
        path = f"/api/dm/views/{view_id}/"
        return int(self._connection.object("PATCH", path, f"view {view_id}", json=body)["id"])
