"""Connects a Label Studio project with our backend and its webhook: ``maskloop connect``."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass
from typing import Any

import httpx

from pipeline.errors import LabelConfigError, LabelStudioError
from pipeline.labelstudio.advice import advise
from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.config import labels_in, read_label_config
from pipeline.labelstudio.projects import find_project
from pipeline.labelstudio.template import DEFAULT_LABELS, Output, write_label_config
from pipeline.labelstudio.types import BackendJson, ProjectJson, WebhookJson
from pipeline.settings import BackendSettings, Settings

log = logging.getLogger(__name__)

TITLE = "maskloop"
SECONDS = 5  # in which the backend must answer whether it has notices
CONNECTED = "CO"  # state of a backend that Label Studio can use
# The actions that pipeline.sync.webhooks handles. The backend keeps these and ignores all others.
WEBHOOK_ACTIONS = (
    "ANNOTATION_CREATED",
    "ANNOTATIONS_CREATED",
    "ANNOTATION_UPDATED",
    "ANNOTATIONS_DELETED",
    "TASKS_CREATED",
    "TASKS_DELETED",
)


@dataclass(frozen=True)
class ConnectReport:
    """The state of the project now. ``changed`` says what this call changed, if anything."""

    project_id: int
    project_title: str
    backend_id: int
    backend_url: str
    webhook_id: int
    labels: tuple[str, ...]
    changed: tuple[str, ...]
    advice: tuple[str, ...]  # about what works but could work better


@dataclass(frozen=True)
class Template:
    """A labelling config to write. Without ``labels``, the project's own labels are kept."""

    labels: tuple[str, ...] = ()
    output: Output = "brush"
    text: bool = False


def connect(
    client: LabelStudio, settings: Settings, project_id: int, template: Template | None = None
) -> ConnectReport:
    """Attach the backend and its webhook to a project; call it again to repair either.

    Args:
        template: replaces the project's labelling config.

    Raises:
        LabelConfigError: the project's labelling config lacks what maskloop needs.
        LabelStudioError: the project is missing, the backend is out of Label Studio's reach or
            refused by it, or Label Studio refuses the change.
    """
    project = find_project(client, project_id)
    changed: list[str] = []
    if template is not None:
        project = _write_config(client, settings, project, template, changed)
    try:
        config = read_label_config(project["label_config"])
    except LabelConfigError as error:
        raise LabelConfigError(
            f"{error} Or run `maskloop connect --project {project_id} --template`, which replaces "
            "the labelling config with a complete one."
        ) from None
    backend = _attach_backend(client, settings.backend, project_id, changed)
    webhook = _attach_webhook(client, settings.backend, project_id, changed)
    for change in changed:
        log.info("project %d: %s", project_id, change)
    return ConnectReport(
        project_id=project_id,
        project_title=project["title"],
        backend_id=backend["id"],
        backend_url=backend["url"],
        webhook_id=webhook["id"],
        labels=config.labels,
        changed=tuple(changed),
        advice=advise(project_id, project["label_config"], config),
    )


def disconnect(client: LabelStudio, settings: Settings, project_id: int) -> tuple[str, ...]:
    """Remove our backend and webhook from a project; says what was removed.

    Raises:
        LabelStudioError: Label Studio is out of reach or refuses the change.
    """
    url = settings.backend.url.rstrip("/")
    removed: list[str] = []
    if client.project(project_id) is None:  # It was deleted, and these with it.
        return ()
    for backend in client.backends(project_id):
        if backend["url"].rstrip("/") == url:
            client.delete_backend(backend["id"])
            removed.append(f"removed the backend {url}")
    for webhook in client.webhooks(project_id):
        if webhook["url"] == f"{url}/webhook":
            client.delete_webhook(webhook["id"])
            removed.append(f"removed the webhook to {url}/webhook")
    return tuple(removed)


def _write_config(
    client: LabelStudio,
    settings: Settings,
    project: ProjectJson,
    template: Template,
    changed: list[str],
) -> ProjectJson:
    labels = template.labels or labels_in(str(project["label_config"])) or DEFAULT_LABELS
    live = f"{settings.browser_url}/notice?project={project['id']}"
    live = live if settings.browser_url and _answers(live) else ""
    xml = write_label_config(labels, template.output, text=template.text, live=live)
    if xml == project["label_config"]:
        return project
    changed.append(f"wrote a labelling config for masks of {', '.join(labels)}")
    return client.update_project(int(project["id"]), label_config=xml)


def _answers(url: str) -> bool:
    """Whether the backend has notices; label-studio-ml has no such route."""
    try:
        return httpx.get(url, timeout=SECONDS, trust_env=False).status_code == httpx.codes.OK
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def basic_auth_header(settings: BackendSettings) -> dict[str, str]:
    """The header Label Studio must send us; empty when the backend asks for none."""
    password = settings.password.get_secret_value()
    if not password:
        return {}
    pair = base64.b64encode(f"{settings.user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _attach_backend(
    client: LabelStudio, settings: BackendSettings, project_id: int, changed: list[str]
) -> BackendJson:
    url = settings.url.rstrip("/")
    password = settings.password.get_secret_value()
    wanted: dict[str, Any] = {
        "url": url,
        "project": project_id,
        "title": TITLE,
        "is_interactive": True,
        "auth_method": "BASIC_AUTH" if password else "NONE",
    }
    if password:
        wanted |= {"basic_auth_user": settings.user, "basic_auth_pass": password}
    rows = [row for row in client.backends(project_id) if row["url"].rstrip("/") == url]
    for double in rows[1:]:  # An attempt that was refused half way left it.
        client.delete_backend(double["id"])
        changed.append(f"removed a second row of the backend {url}")
    ours = rows[0] if rows else None
    if ours is None:
        backend = client.add_backend(**wanted)
        changed.append(f"attached the backend {url}")
    else:
        # Label Studio never shows the password, so this sets it again in any case.
        backend = client.update_backend(ours["id"], **wanted)
        if any(ours.get(name) != backend.get(name) for name in (*wanted, "state")):
            changed.append(f"repaired the backend {url}")
    checked = client.backend(backend["id"]) or backend
    if checked["state"] != CONNECTED:
        raise LabelStudioError(
            f"Label Studio cannot use the backend {url} "
            f"({checked.get('error_message') or checked.get('readable_state')}); "
            "start the backend, and check that Label Studio reaches it at backend.url."
        )
    return checked


def _attach_webhook(
    client: LabelStudio, settings: BackendSettings, project_id: int, changed: list[str]
) -> WebhookJson:
    url = f"{settings.url.rstrip('/')}/webhook"
    wanted: dict[str, Any] = {
        "url": url,
        "headers": basic_auth_header(settings),
        "send_for_all_actions": False,
        "actions": sorted(WEBHOOK_ACTIONS),
        "send_payload": True,
        "is_active": True,
    }
    rows = [row for row in client.webhooks(project_id) if row["url"] == url]
    for double in rows[1:]:  # Each would deliver every event once more.
        client.delete_webhook(double["id"])
        changed.append(f"removed a second webhook to {url}")
    if not rows:
        changed.append(f"made the webhook to {url}")
        return client.add_webhook(project=project_id, **wanted)
    ours = rows[0]
    found = ours | {"actions": sorted(ours.get("actions") or ())}
    if all(found.get(name) == value for name, value in wanted.items()):
        return ours
    changed.append(f"set up the webhook to {url} with its credentials and actions")
    return client.update_webhook(ours["id"], **wanted)
