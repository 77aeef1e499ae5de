"""The backend's other routes, passwords, and webhooks while Redis is out of reach."""

from __future__ import annotations

import base64
import json
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipeline.record.tables import Event, Interaction
from pipeline.settings import Settings
from tests.editor import (
    ON_BALL,
    Editor,
    backend,
    click,
    photograph,
    rows,
    save,
    settings_for,
)

pytestmark = pytest.mark.integration


def test_setup_says_the_version_or_what_is_missing(client: httpx.Client, editor: Editor) -> None:
    good = client.post("/setup", json={"project": "7.1", "schema": editor.config})
    assert good.json() == {"model_version": "base"}
    bad = client.post("/setup", json={"project": "7.1", "schema": "<View/>"})
    assert bad.status_code == 422
    assert "<Image>" in bad.json()["error"]


def test_versions_by_get_with_a_body_and_by_post(client: httpx.Client) -> None:
    by_get = client.request("GET", "/versions", content=b'{"project": "7.1"}')
    by_post = client.post("/versions", json={"project": "7.1"})
    assert by_get.json() == by_post.json() == {"versions": ["base"]}


def test_ready_and_health(client: httpx.Client) -> None:
    ready = client.get("/ready").json()
    assert "The schedule has never given a sign of life" in " ".join(ready.pop("silent"))
    assert ready == {"status": "READY", "model_version": "base"}
    assert "maskloop_silence_seconds" in client.get("/metrics").text
    for path in ("/", "/health"):
        assert client.get(path).json()["status"] == "UP"


BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def test_a_browser_gets_a_page_that_knows_what_was_clicked(
    client: httpx.Client, settings: Settings, editor: Editor
) -> None:
    editor.ask(click("a", *ON_BALL))
    answer = client.get("/", headers=BROWSER)
    assert answer.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for words in ("half within", settings.label_studio.url, f":{settings.fiftyone.port}", "base"):
        assert words in answer.text
    assert f">{len(rows(settings, Interaction))}<" in answer.text  # clicks answered


def test_health_answers_while_an_image_is_encoded(client: httpx.Client, settings: Settings) -> None:
    assert settings.images.files_root is not None
    save(photograph(1500, 2000), settings.images.files_root / "large.jpg")
    large = Editor(client, url="/data/local-files/?d=large.jpg", task=50)
    clicking = threading.Thread(target=large.send, args=(click("a", *ON_BALL),))
    clicking.start()
    answers = 0
    while clicking.is_alive():
        assert client.get("/health").status_code == 200
        answers += 1
        time.sleep(0.01)
    clicking.join()
    # A server that waits for the encode would give a single answer, after it.
    assert answers > 3


def test_a_password_is_asked_for_everywhere_but_at_the_door(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, password="right")
    with backend(settings) as locked:
        for path in ("/", "/health"):
            assert locked.get(path).json()["status"] == "UP"
        refused = locked.get("/", headers=BROWSER)
        assert refused.status_code == 401
        assert refused.headers["WWW-Authenticate"].startswith("Basic")  # so a browser asks
        shown = locked.get("/", headers=BROWSER, auth=("maskloop", "right"))
        assert shown.text.startswith("<!DOCTYPE html>")
        for method, path in [
            ("POST", "/predict"),
            ("POST", "/setup"),
            ("POST", "/webhook"),
            ("GET", "/versions"),
            ("GET", "/metrics"),
            ("GET", "/ready"),
        ]:
            assert locked.request(method, path).status_code == 401
            for wrong in (("maskloop", "wrong"), ("other", "right"), ("", "")):
                assert locked.request(method, path, auth=wrong).status_code == 401
        garbage = {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()}
        assert locked.get("/ready", headers=garbage).status_code == 401
        assert locked.get("/ready", auth=("maskloop", "right")).status_code == 200


def test_an_image_over_http_is_fetched_only_where_allowed(settings: Settings) -> None:
    handler = partial(QuietFiles, directory=str(settings.images.files_root))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/balls.png"
    host = f"127.0.0.1:{server.server_port}"
    try:
        for allowed in ((), (host,)):
            images = settings.images.model_copy(update={"allowed_hosts": allowed})
            home = settings.home / f"http-{len(allowed)}"
            with backend(settings.model_copy(update={"images": images, "home": home})) as client:
                response = Editor(client, url=url).send(click("a", *ON_BALL))
            assert response.status_code == (200 if allowed else 424), response.text
    finally:
        server.shutdown()
        server.server_close()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        return


# --- Webhooks while Redis is out of reach ---


def hook(action: str, **body: Any) -> dict[str, Any]:
    return {"action": action, "project": {"id": 7, "title": "t", "parsed_label_config": {}}, **body}


def test_a_webhook_is_kept_once_and_answered_at_once(
    client: httpx.Client, settings: Settings
) -> None:
    body = hook("ANNOTATION_CREATED", annotation={"id": 5, "updated_at": "2026-11-22T06:43:07Z"})
    for _ in range(2):
        assert client.post("/webhook", json=body).status_code == 201
    later = hook("ANNOTATION_CREATED", annotation={"id": 5, "updated_at": "2026-11-22T07:00:00Z"})
    client.post("/webhook", json=later)
    kept = [row for row in rows(settings, Event) if "5@" in row.key]
    assert len(kept) == 2
    assert all(row.done_at is None for row in kept)  # reconcile finds them
    assert kept[0].payload["project"] == {"id": 7, "title": "t"}
    assert "maskloop_not_enqueued_total" in client.get("/metrics").text


@pytest.mark.parametrize(
    "body",
    [
        hook("ANNOTATIONS_DELETED", annotations=[{"id": 2}]),
        hook("TASKS_CREATED", tasks=[{"id": n, "updated_at": "x" * 30} for n in range(500)]),
        hook("START_TRAINING"),
    ],
)
def test_every_event_of_the_loop_is_kept(
    client: httpx.Client, settings: Settings, body: dict[str, Any]
) -> None:
    assert client.post("/webhook", json=body).status_code == 201
    newest = rows(settings, Event)[-1]
    assert newest.action == body["action"]
    assert len(newest.key) <= 255


def test_other_webhooks_are_answered_and_forgotten(
    client: httpx.Client, settings: Settings
) -> None:
    before = len(rows(settings, Event))
    assert client.post("/webhook", json=hook("PROJECT_UPDATED")).status_code == 201
    assert len(rows(settings, Event)) == before
    huge = json.dumps(hook("TASKS_CREATED")).replace('"t"', "1e999").encode()
    for nonsense in (b"", b"[]", json.dumps({"action": 7}).encode(), huge):
        assert client.post("/webhook", content=nonsense).status_code == 404
