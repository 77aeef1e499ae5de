"""``maskloop doctor`` checks maskloop itself: settings, database, disc, Redis, workers, backend.

Each docstring of a check says what is true when the check is passed.
"""

from __future__ import annotations

import os
from typing import Any

import httpx

from pipeline.doctor.case import Answer, Case, advice, ok, problem
from pipeline.mirror.mongod import ping_mongod
from pipeline.queue import QUEUES
from pipeline.record.schema import read_schema
from pipeline.settings import SETTINGS_FILE
from pipeline.storage.disc import least_room

ROOM = 2_000_000_000  # bytes, for a few hundred embeddings, a fine-tune's weights and the database
BACKEND_SECONDS = 10  # the first /ready may have to load a promoted model


def settings(case: Case) -> Answer:
    """The settings can be read, and are not only the defaults because of a wrong folder."""
    file = case.settings.home.resolve() / SETTINGS_FILE
    variables = sum(name.startswith("MASKLOOP_") for name in os.environ)
    if file.is_file():
        return ok(f"Read from {file} and {variables} environment variables.")
    if variables:
        return ok(f"Read from {variables} environment variables; there is no {file}.")
    return advice(
        f"There is no {file} and no MASKLOOP_ variable, so these are the defaults; run this where "
        "`maskloop up` ran, or name that folder in MASKLOOP_HOME."
    )


def database(case: Case) -> Answer:
    """The database answers and has the newest schema. The check does not migrate it."""
    found = read_schema(case.settings)
    match found.state:
        case "missing":
            return problem(
                f"There is no database at {found.address}; start maskloop, which makes it, or "
                "correct database_url."
            )
        case "newer":
            return problem(
                f"{found.address} was written by a newer maskloop; install that one, or use "
                "another database."
            )
        case "older" | "empty":
            return problem(
                f"{found.address} has the schema of an older maskloop, or none; start maskloop "
                "again or run `maskloop upgrade`, which brings it up to date."
            )
    return ok(f"{found.address} answers and has the newest schema.")


def disc(case: Case) -> Answer:
    """The discs of the home folder and of the store have free space."""
    room = least_room(case.settings)
    free, folder = f"{room.free / 1e9:.1f} GB", room.folder
    if room.full:
        return problem(
            f"The disc under {folder} is full: clicks are answered but not logged, and nothing "
            "else is kept; make room, or move the store with store_url."
        )
    if room.free < ROOM:
        return problem(
            f"Only {free} are free under {folder}; make room, or move the store with store_url."
        )
    return ok(f"{free} are free under {folder}.")


def redis(case: Case) -> Answer:
    """Redis answers."""
    waiting = case.runtime.enqueuer.waiting()
    return ok(f"It answers; messages waiting: {sum(waiting.values())}.")


def workers(case: Case) -> Answer:
    """Every queue has a worker that listens on it."""
    listening = case.runtime.enqueuer.listening()
    deaf = sorted(
        set(QUEUES.values()) - {queue for queues in listening.values() for queue in queues}
    )
    if deaf:
        return problem(
            f"No worker takes messages from {', '.join(deaf)}; start one with `celery -A "
            f"workers.app worker -Q {','.join(deaf)}`, or everything with `maskloop up`."
        )
    return ok("Every queue has one that takes its messages.")


def schedule(case: Case) -> Answer:
    """The schedule and a worker for each queue gave signs of life a moment ago."""
    silent = case.runtime.silent()
    if silent:
        return problem(" ".join(silent))
    return ok("It runs, and every queue has a worker that is alive.")


def mongod(case: Case) -> Answer:
    """FiftyOne's database answers, if one is set. No click depends on it."""
    fiftyone = case.settings.fiftyone
    if "database_uri" not in fiftyone.model_fields_set:
        return Answer("skipped", "Not looked at; fiftyone.database_uri is not set.")
    ping_mongod(fiftyone.database_uri)
    return ok("FiftyOne's database answers.")


def backend(case: Case) -> Answer:
    """The backend answers at backend.url, accepts the user of the settings, and is ready."""
    login = case.settings.backend.user, case.settings.backend.password.get_secret_value()
    url = case.backend_url
    try:
        with httpx.Client(base_url=url, timeout=BACKEND_SECONDS, trust_env=False) as http:
            http.get("/health").raise_for_status()
            stranger = http.get("/ready")
            friend = http.get("/ready", auth=login) if login[1] else stranger
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return problem(
            f"No backend answers at {url} ({error or type(error).__name__}); start it, or correct "
            "backend.url."
        )
    if friend.status_code == httpx.codes.NOT_FOUND:
        return advice(
            f"The program at {url} is not maskloop's own server; correct backend.url, unless a "
            "label-studio-ml server hosts maskloop there."
        )
    if friend.status_code == httpx.codes.UNAUTHORIZED:
        return problem(
            f"The backend at {url} refuses the user and password of the settings, so it was "
            "started with others; start it again with these settings."
        )
    if not friend.is_success:
        return problem(
            f"The backend at {url} is not ready (status {friend.status_code}: "
            f"{_field(friend, 'error')}); look at its log."
        )
    if login[1] and stranger.is_success:
        return problem(
            f"The backend at {url} lets anyone in, though backend.password is set; start it again "
            "with these settings."
        )
    serves = f"It answers at {url} and serves {_field(friend, 'model_version')}"
    if not login[1]:
        return advice(
            f"{serves}, but it asks for no password, so everyone who reaches it can use it; set "
            "backend.password, start it again and run `maskloop connect`."
        )
    return ok(f"{serves}.")


def _field(response: httpx.Response, name: str) -> str:
    try:
        body: Any = response.json()
    except ValueError:
        body = None
    value = body.get(name) if isinstance(body, dict) else None
    return str(value or "it says no more").rstrip(".")
