"""A task whose address changes while its image is fetched, and images that arrive slowly."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import httpx
import pytest
from PIL import Image as Picture

from backend.process.warming import Warming
from pipeline.images.catalog import MOST_ADDRESS
from pipeline.record.tables import Image, Task
from pipeline.settings import ImageSettings, Settings
from tests.editor import (
    HEIGHT,
    ON_BALL,
    ON_BLUE,
    WIDTH,
    Editor,
    backend,
    click,
    photograph,
    rows,
    save,
    settings_for,
)

pytestmark = pytest.mark.integration

SMALL = (96, 128)  # height and width of the image at a quick address


class Images(ThreadingHTTPServer):
    """A server of images. An address that contains ``slow`` is answered when ``go`` is set, and all
    others at once. An address that contains ``gone`` has no image."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.go, self.asked = threading.Event(), Counter[str]()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def wait_for(self, name: str) -> None:
        while not self.asked[f"/{name}"]:
            time.sleep(0.01)


class Handler(BaseHTTPRequestHandler):
    server: Images

    def do_GET(self) -> None:
        slow = "slow" in self.path
        self.server.asked[self.path] += 1
        if slow:
            self.server.go.wait(15)
        file = io.BytesIO()
        Picture.fromarray(photograph() if slow else photograph(*SMALL)).save(file, "PNG")
        body = b"" if "gone" in self.path else file.getvalue()
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def images() -> Iterator[Images]:
    with Images() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.go.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def settings(tmp_path: Path, images: Images) -> Settings:
    made = settings_for(tmp_path)
    save(photograph(), tmp_path / "files" / "balls.png")
    allowed = ImageSettings(
        files_root=tmp_path / "files",
        allowed_hosts=(f"127.0.0.1:{images.server_port}",),
        allow_private=True,
    )
    return made.model_copy(update={"images": allowed})


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with backend(settings) as running:
        yield running


def size(region: Any) -> tuple[int, int]:
    return region["original_height"], region["original_width"]


def shown(settings: Settings) -> tuple[str, tuple[int, int] | None, str | None]:
    """The address, the size of the image and the problem of the only task."""
    (task,) = rows(settings, Task)
    sizes = {image.id: (image.height, image.width) for image in rows(settings, Image)}
    return task.url, sizes.get(task.image_id), task.problem


def test_an_image_that_comes_late_is_not_that_of_the_new_address(
    client: httpx.Client, settings: Settings, images: Images
) -> None:
    old, new = images.url("slow.png"), images.url("quick.png")
    with ThreadPoolExecutor(1) as other:
        late = other.submit(Editor(client, old).ask, click("old", *ON_BALL))
        images.wait_for("slow.png")
        assert size(Editor(client, new).ask(click("new", *ON_BALL))) == SMALL
        images.go.set()
        # A page that still shows the old image gets a mask for that image.
        assert size(late.result()) == (HEIGHT, WIDTH)
    assert shown(settings) == (new, SMALL, None)
    assert size(Editor(client, new).ask(click("later", *ON_BALL))) == SMALL


def test_what_was_wrong_with_the_old_address_is_not_said_of_the_new(
    client: httpx.Client, settings: Settings, images: Images
) -> None:
    new = images.url("quick.png")
    with ThreadPoolExecutor(1) as other:
        late = other.submit(Editor(client, images.url("slow-gone.png")).send, click("a", *ON_BALL))
        images.wait_for("slow-gone.png")
        assert size(Editor(client, new).ask(click("new", *ON_BALL))) == SMALL
        images.go.set()
        assert late.result().status_code == 424
    assert shown(settings) == (new, SMALL, None)


def test_one_impatient_annotator_keeps_nobody_waiting(client: httpx.Client, images: Images) -> None:
    somebody = Editor(client, task=2)
    assert somebody.ask(click("w", *ON_BALL))
    marks = [click(f"m{n}", *ON_BALL) for n in range(18)]
    with ThreadPoolExecutor(len(marks)) as impatient:
        sent = []
        for n in range(len(marks)):
            editor = Editor(client, images.url("slow.png"))
            sent.append(impatient.submit(editor.send, *marks[: n + 1]))
            time.sleep(0.05)
        began = time.perf_counter()
        assert somebody.ask(click("x", *ON_BLUE))
        took = time.perf_counter() - began
        images.go.set()
        answers = [each.result().json()["results"][0]["result"] for each in sent]
    assert took < 7, "the image was waited for"  # the server would wait 15 seconds
    assert images.asked["/slow.png"] == 1
    assert [bool(answer) for answer in answers] == [False] * 17 + [True]


def test_annotators_of_one_image_share_its_download(
    client: httpx.Client, settings: Settings, images: Images
) -> None:
    with ThreadPoolExecutor(6) as annotators:
        editors = [Editor(client, images.url("slow.png"), task=task) for task in range(1, 7)]
        sent = [annotators.submit(each.ask, click("a", *ON_BALL)) for each in editors]
        while len(rows(settings, Task)) < len(editors):
            time.sleep(0.01)
        time.sleep(0.5)  # each thread fetches the image right after reading its row
        images.go.set()
        assert [size(each.result()) for each in sent] == [(HEIGHT, WIDTH)] * 6
    assert images.asked["/slow.png"] == 1


def test_a_picture_in_place_of_its_address_is_refused(
    client: httpx.Client, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    editor = Editor(client, "data:image/png;base64," + "A" * MOST_ADDRESS)
    assert editor.client.post("/predict", json=editor.request(None)).status_code == 200
    response = editor.send(click("a", *ON_BALL))
    assert response.status_code == 424
    assert "characters long" in response.json()["error"]
    assert len(response.text) < 500
    assert rows(settings, Task) == []
    # The annotator is told once, and not for each opened task.
    assert "not made ready" not in caplog.text


def test_addresses_of_opened_tasks_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    done: SimpleQueue[tuple[str, bool]] = SimpleQueue()
    monkeypatch.setattr(Warming, "_work", lambda _self, _project, _task, *rest: done.put(rest))
    a, b = "/data/a" * 1000, "/data/b" * 1000
    warming = Warming(cast(Any, None))
    for url in [a, b, a, "c" * (MOST_ADDRESS + 1)]:
        warming.opened(1, 1, url, itself=True)
    warming.opened(1, 1, a, itself=False)
    assert [done.get(timeout=20) for _ in range(3)] == [(a, True), (b, True), (a, False)]
    warming.close()
    assert len(repr(warming._seen)) < 1000
