"""``maskloop doctor`` checks Label Studio: token, project, ML backend, webhook, banned addresses.

Each docstring of a check says what is true when the check is passed.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx

from pipeline.doctor.case import Answer, Case, advice, ok, problem
from pipeline.labelstudio.connect import (
    CONNECTED,
    WEBHOOK_ACTIONS,
    basic_auth_header,
)

TESTED = "1.23.2"  # the version in constraints-label-studio.txt
SOON = timedelta(days=7)
DISCONNECTED = "DI"
REACH_SECONDS = 10


def reachable(case: Case) -> Answer:
    """Label Studio answers at label_studio.url, in the tested version. This needs no token."""
    url = case.settings.label_studio.url.rstrip("/")
    try:
        answer = httpx.get(
            f"{url}/api/version", timeout=REACH_SECONDS, trust_env=False, follow_redirects=True
        )
        version = str(answer.raise_for_status().json()["release"])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return problem(
            f"Label Studio does not answer at {url} ({error or type(error).__name__}); start it, "
            "or correct label_studio.url."
        )
    except (ValueError, KeyError, TypeError):
        return problem(
            f"The server at {url} is not Label Studio; set label_studio.url to its address."
        )
    if version != TESTED:
        return advice(
            f"Label Studio {version} answers at {url}; maskloop was tested with {TESTED}, so use "
            "that if something looks wrong."
        )
    return ok(f"Label Studio {version} answers at {url}.")


def token(case: Case) -> Answer:
    """The token belongs to an account, and does not expire soon."""
    expires = case.client.token_expires
    kind = "legacy token" if expires is None else "personal access token"
    if expires is not None and expires < datetime.now(UTC):
        return problem(
            f"The personal access token in label_studio.token expired on {expires:%d %B %Y}; make "
            "a new one on Label Studio's account page and set it."
        )
    account = case.client.whoami()
    if expires is not None and expires - datetime.now(UTC) < SOON:
        return advice(
            f"The personal access token in label_studio.token expires on {expires:%d %B %Y}; make "
            "a new one on Label Studio's account page and set it."
        )
    return ok(f"The {kind} belongs to {account.get('email')}.")


def project(case: Case) -> Answer:
    """The project exists, and the account may see it."""
    return ok(f"Project {case.project_id} is {case.project['title']!r}.")


def address(case: Case) -> Answer:
    """Label Studio resolves the backend's host, and bans neither it nor the webhook's address."""
    case.client.check_backend_address(case.project_id, case.backend_url)
    case.client.check_webhook_address(case.project_id, f"{case.backend_url}/webhook")
    return ok(f"Label Studio allows requests to {case.backend_url}.")


def ml_backend(case: Case) -> Answer:
    """The project sends every click to this backend, once, with credentials."""
    rows, settings = case.our_backends, case.settings.backend
    if not rows:
        return problem(
            f"Project {case.project_id} does not ask the backend {case.backend_url}; run "
            f"{case.repair}."
        )
    row, faults = rows[0], []
    if len(rows) > 1:
        faults.append(f"is attached {len(rows)} times")
    if not row["is_interactive"]:
        faults.append('is not asked at a click ("Interactive preannotations" is off)')
    if settings.password.get_secret_value():
        sends = row.get("auth_method") == "BASIC_AUTH" and row.get("basic_auth_pass_is_set")
        if not sends:
            faults.append("is called without a password, though backend.password is set")
        elif row.get("basic_auth_user") != settings.user:
            faults.append("is called with another user than backend.user")
    if faults:
        return problem(
            f"In project {case.project_id} the backend {case.backend_url} "
            f"{' and '.join(faults)}; run {case.repair}."
        )
    # The page sends a click to one backend: the first interactive one, in the API's order.
    asked = next(row["url"] for row in case.backends if row["is_interactive"])
    if asked.rstrip("/") != case.backend_url:
        return problem(
            f"A click in project {case.project_id} goes to {asked} instead of {case.backend_url}; "
            'switch off its "Interactive preannotations" in the project\'s settings, under Model.'
        )
    return ok(f"Project {case.project_id} asks {case.backend_url} at every click.")


def reach(case: Case) -> Answer:
    """Label Studio reached the backend just now, and the backend accepted its credentials."""
    row, url = case.our_backends[0], case.backend_url
    if row["state"] == CONNECTED:
        return ok(f"Label Studio reaches {url}.")
    if row["state"] == DISCONNECTED:
        return problem(
            f"Label Studio cannot reach {url}, though it answers from here; set backend.url to an "
            f"address that also works on Label Studio's machine, and run {case.repair}."
        )
    said = " ".join(str(row.get("error_message") or row.get("readable_state")).split())
    if "401" in said:
        return problem(
            f"Label Studio calls {url} with a password that the backend refuses; run {case.repair}."
        )
    return problem(
        f"The backend {url} gives Label Studio an error ({said[:300].rstrip('.')}); look at the "
        f"backend's log, then run {case.repair}."
    )


def webhook(case: Case) -> Answer:
    """Label Studio sends changes of annotations and tasks to the backend, with credentials."""
    url = f"{case.backend_url}/webhook"
    rows = [row for row in case.client.webhooks(case.project_id) if row["url"] == url]
    if not rows:
        return problem(f"Project {case.project_id} has no webhook to {url}; run {case.repair}.")
    row, faults = rows[0], []
    if len(rows) > 1:
        faults.append(f"is there {len(rows)} times")
    if not row["is_active"]:
        faults.append("is switched off")
    if not row["send_payload"]:
        faults.append("sends no payload")
    header = basic_auth_header(case.settings.backend)
    sent = row.get("headers") or {}
    if header and "Authorization" not in sent:
        faults.append("has no Authorization header, so the backend refuses it")
    elif header and sent["Authorization"] != header["Authorization"]:
        faults.append("has an Authorization header that the backend refuses")
    lacking = sorted(set(WEBHOOK_ACTIONS) - set(row.get("actions") or ()))
    if lacking and not row["send_for_all_actions"]:
        faults.append(f"leaves out {', '.join(lacking)}")
    if faults:
        return problem(f"The webhook to {url} {' and '.join(faults)}; run {case.repair}.")
    return ok(f"The webhook to {url} sends what it must, with credentials.")
