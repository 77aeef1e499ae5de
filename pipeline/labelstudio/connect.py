"""Make a Label Studio project ask our backend and tell us what happens: ``maskloop connect``."""

from __future__ import annotations

import base64
import logging
from dataclasses import dataclass
from typing import Any

import httpx
from label_studio_sdk.label_interface.interface import LabelInterface

from pipeline.errors import LabelConfigError, LabelStudioError
from pipeline.labelstudio.client import Json, LabelStudio
from pipeline.labelstudio.config import LabelConfig, labels_in, read_label_config
from pipeline.labelstudio.template import Output, write_label_config
from pipeline.settings import BackendSettings, Settings

log = logging.getLogger(__name__)

TITLE = "maskloop"
SECONDS = 5  # for the backend to say that it has notices
LABELS = ("Object", "Other")  # of a project that has none
CONNECTED = "CO"
# What pipeline.sync.webhooks works on; the backend keeps these and lets the others go.
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
    """How the project stands now. ``changed`` says what this call did: empty when all was well."""

    project_id: int
    project_title: str
    backend_id: int
    backend_url: str
    webhook_id: int
    labels: tuple[str, ...]
    changed: tuple[str, ...]
    advice: tuple[str, ...]  # what works but could work better


@dataclass(frozen=True)
class Template:
    """A labelling config to write. Without ``labels`` it keeps those the project has."""

    labels: tuple[str, ...] = ()
    output: Output = "brush"
    text: bool = False


def connect(
    client: LabelStudio, settings: Settings, project_id: int, template: Template | None = None
) -> ConnectReport:
    """Attach the backend and its webhook to a project; do it again to repair either.

    Args:
        template: replaces the project's labelling config.

    Raises:
        LabelConfigError: the project's labelling config lacks what maskloop needs.
        LabelStudioError: the project is missing, the backend is out of Label Studio's reach or
            refused by it, or Label Studio refuses the change.
    """
    project = client.project(project_id)
    if project is None:
        raise LabelStudioError(
            f"Label Studio at {client.url} has no project {project_id}; "
            "look the number up in the address of its page."
        )
    changed: list[str] = []
    if template is not None:
        project = _write_config(client, settings, project, template, changed)
    try:
        config = read_label_config(project["label_config"])
    except LabelConfigError as error:
        raise LabelConfigError(
            f"{error} Or have `maskloop connect --project {project_id} --template` write one that "
            "has all it takes in its place."
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


def _write_config(
    client: LabelStudio,
    settings: Settings,
    project: Json,
    template: Template,
    changed: list[str],
) -> Json:
    labels = template.labels or labels_in(str(project["label_config"])) or LABELS
    live = f"{settings.browser_url}/notice?project={project['id']}"
    live = live if settings.browser_url and _answers(live) else ""
    xml = write_label_config(labels, template.output, text=template.text, live=live)
    if xml == project["label_config"]:
        return project
    changed.append(f"wrote a labelling config for masks of {', '.join(labels)}")
    return client.update_project(int(project["id"]), label_config=xml)


def _answers(url: str) -> bool:
    """Whether there are notices: label-studio-ml has no such route."""
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
) -> Json:
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
    for double in rows[1:]:  # left by an attempt that was refused half way
        client.delete_backend(double["id"])
        changed.append(f"removed a second row of the backend {url}")
    ours = rows[0] if rows else None
    if ours is None:
        backend = client.add_backend(**wanted)
        changed.append(f"attached the backend {url}")
    else:
        # Label Studio never shows the password, so whether it is still right takes a try.
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
) -> Json:
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
    for double in rows[1:]:  # each would deliver every event once more
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


def advise(project_id: int, xml: str, config: LabelConfig) -> tuple[str, ...]:
    """What annotators would miss with a labelling config that can be read, with the remedies."""
    advice = labels_apart(xml, config)
    if config.click_tag is None:
        advice.append(
            'The labelling config has no smart <KeyPointLabels>; add one with smart="true" '
            'smartOnly="true" so that a click asks the model.'
        )
    if config.box_tag is None:
        advice.append(
            'The labelling config has no smart <RectangleLabels>; add one with smart="true" '
            'smartOnly="true" so that a box asks the model.'
        )
    if "smartOnly" not in xml:
        advice.append(
            'No tag of the labelling config has smartOnly="true", so a label\'s digit picks a '
            "tool that asks no model; add it to the smart tags."
        )
    lacking = []
    if config.notice_tag is None:
        lacking.append("no place to tell annotators what goes wrong")
    if not (config.hints and config.waiting_labels):
        lacking.append("no tools to draw hints for the model")
    if lacking:
        advice.append(
            f"The labelling config has {' and '.join(lacking)}; `maskloop connect --project "
            f"{project_id} --template` puts one that has in its place."
        )
    return tuple(advice)


def labels_apart(xml: str, config: LabelConfig) -> list[str]:
    """Masks nobody gets, though every tag is there: labels that differ, and paths left open.

    A label of a smart tool that no mask can carry is no fault by itself: it takes away.
    """
    tags = {str(tag.name): tag for tag in LabelInterface(xml).controls}
    masks = tags[config.output_tag]
    alike = {_letters(label): label for label in config.labels}
    said = []
    for name in (config.click_tag, config.box_tag):
        labels = [] if name is None else list(tags[name].labels)
        labels = [label for label in labels if label not in config.waiting_labels]
        foreign = [label for label in labels if label not in config.labels]
        meant = [(each, alike[_letters(each)]) for each in foreign if _letters(each) in alike]
        if meant:
            pairs = " and ".join(f"{each!r} for {mask!r}" for each, mask in meant)
            said.append(
                f"{as_tag(tags[str(name)])} says {pairs}, which are other labels than those of "
                f"{as_tag(masks)}, so what is asked with them gets no mask; write them alike."
            )
        elif labels and len(foreign) == len(labels):
            said.append(
                f"{as_tag(tags[str(name)])} shares no label with {as_tag(masks)}, so all that is "
                "asked with it gets no mask; give both the same labels."
            )
    if config.output == "vector" and str(masks.attr.get("closable")).lower() != "true":
        said.append(
            f'{as_tag(masks)} has no closable="true", so submitted paths stay open and never count '
            "as masks; add it to the tag."
        )
    return said


def _letters(label: str) -> str:
    return "".join(label.split()).casefold()


def as_tag(tag: Any) -> str:
    """A tag of a labelling config as a sentence names it."""
    return f'<{tag.tag} name="{tag.name}">'
