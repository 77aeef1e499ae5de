"""The real FiftyOne App in a real Chromium: what the data team sees, and how the server ends."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.images.catalog import image_key
from pipeline.mirror.dataset import mirror
from pipeline.record import images
from tests.browser.fiftyone_page import (
    PATIENCE,
    green_share,
    login_of,
    samples,
    visit,
    wait_for_green,
)
from tests.mirror_world import World, accept, make_world
from tests.services.mongod import free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 90


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mongod_uri: str) -> Iterator[World]:
    home = tmp_path_factory.mktemp("fiftyone-app") / "home"
    made = make_world(home, mongod_uri, "app-test", port=free_port())
    yield made
    made.runtime.close()


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[psutil.Popen]:
    """``python -m pipeline.mirror.app``, started before any mirror has run."""
    process = start(world, world.settings.fiftyone.port)
    yield process
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def page(browser: Browser, world: World) -> Iterator[Page]:
    context = browser.new_context(
        viewport={"width": 1400, "height": 900}, http_credentials=login_of(world.settings)
    )
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


def start(world: World, port: int) -> psutil.Popen:
    settings = world.settings
    environment = {
        **os.environ,
        "MASKLOOP_HOME": str(settings.home),
        "MASKLOOP_FIFTYONE__DATABASE_URI": settings.fiftyone.database_uri,
        "MASKLOOP_FIFTYONE__DATASET": settings.fiftyone.dataset,
        "MASKLOOP_FIFTYONE__PORT": str(port),
        "MASKLOOP_FIFTYONE__PASSWORD": settings.fiftyone.password.get_secret_value(),
    }
    with (settings.home / "app.log").open("ab") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "pipeline.mirror.app"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/fiftyone", timeout=2):
                return process
        except HTTPError as error:
            if error.code == 401:  # It answers, and asks for the password.
                return process
            raise
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    process.kill()
    pytest.fail((settings.home / "app.log").read_text())


def test_the_app_opens_on_the_dataset_before_anything_is_mirrored(
    server: psutil.Popen, page: Page, world: World
) -> None:
    visit(page, world.settings)
    expect(page.get_by_text("No samples yet")).to_be_visible()
    assert page.url.endswith("/datasets/app-test")


def test_masks_are_seen_at_once(server: psutil.Popen, page: Page, world: World) -> None:
    mirror(world.runtime)
    visit(page, world.settings)
    samples(page, 12)
    wait_for_green(page, 0.01)


def test_next_round_is_there_in_its_order(server: psutil.Popen, page: Page, world: World) -> None:
    mirror(world.runtime)
    visit(page, world.settings, "datasets/app-test?view=next-round")
    samples(page, 3)
    expect(page.locator("input[value=next_round], :text('next_round')").first).to_be_visible()
    assert green_share(page) < 0.005  # none of its images is labelled
    visit(page, world.settings)  # a link to a view leaves the front page as it is
    samples(page, 12)


def test_a_mask_mirrored_later_is_seen_after_loading_the_page_again(
    server: psutil.Popen, page: Page, world: World
) -> None:
    mirror(world.runtime)
    visit(page, world.settings, "datasets/app-test?view=accepted")
    samples(page, 4)
    with world.sessions.begin() as session:
        accept(session, world.task_ids[9])
    mirror(world.runtime)
    page.reload()
    samples(page, 5)


def test_another_account_gets_no_file_and_no_page_of_another_name(
    server: psutil.Popen, world: World
) -> None:
    mirror(world.runtime)
    port, login = world.settings.fiftyone.port, world.settings.fiftyone_login
    image = first_image(world)
    secret = world.settings.home / "maskloop.toml"
    secret.write_text("[backend]\n")
    secret.chmod(0o600)
    basic = "Basic " + base64.b64encode(":".join(login).encode()).decode()
    base = f"http://127.0.0.1:{port}"
    listing = {"operator_uri": "@voxel51/operators/list_files", "params": {"path": "/etc"}}
    knows, stranger = {"Authorization": basic}, dict[str, str]()
    asked = [
        # What another account of this machine can ask, without the password and with it.
        (f"{base}/media?filepath={secret}", stranger, None, 401),
        (f"{base}/media?filepath={image}", stranger, None, 401),
        (f"{base}/graphql", stranger, {"query": "{ __typename }"}, 401),
        (f"{base}/operators/execute", stranger, listing, 401),
        (f"{base}/media?filepath={image}", knows, None, 200),
        (f"{base}/media?filepath={secret}", knows, None, 404),
        (f"{base}/media?filepath=/etc/passwd", knows, None, 404),
        (f"{base}/operators/execute", knows, listing, 403),
        (f"{base}/operators/execute", knows, {**listing, "operator_uri": "list_files"}, 403),
        (f"{base}/operators/execute/generator", knows, listing, 403),
        (f"{base}/graphql", knows | {"Host": "attacker.example"}, None, 403),
        (f"{base}/graphql", knows | {"Origin": "http://attacker.example"}, None, 403),
    ]
    codes = as_another_account([(url, headers, body) for url, headers, body, _ in asked])
    assert codes == [code for *_, code in asked]


def first_image(world: World) -> Path:
    with world.sessions() as session:
        image = images.get(session, images.shown(session)[0])
    return world.store.local_path(image_key(image))


def as_another_account(requests: list[tuple[str, dict[str, str], Any]]) -> list[int]:
    """The status codes of these requests, sent by the account "nobody" where this one may change
    into it. The child is forked and not started, because that account may not read our Python."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            if os.getuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            codes = []
            for url, headers, body in requests:
                data = None if body is None else json.dumps(body).encode()
                kind = {"Content-Type": "application/json"}
                codes.append(send(Request(url, data=data, headers={**kind, **headers})))
            os.write(writer, json.dumps(codes).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        codes = json.loads(told.read())
    os.waitpid(child, 0)
    return list(codes)


def send(request: Request) -> int:
    try:
        with urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_it_ends_when_told_to_and_leaves_nothing_behind(world: World, mongod_uri: str) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        port = free_port()
        process = start(world, port)
        family = [process, *process.children(recursive=True)]
        process.send_signal(number)
        assert process.wait(timeout=20) == 0
        assert not [member for member in family if member.is_running()]


def test_a_taken_port_is_one_sentence(server: psutil.Popen, world: World) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "pipeline.mirror.app"],
        env={**os.environ, "MASKLOOP_FIFTYONE__PORT": str(world.settings.fiftyone.port)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert "change fiftyone.port" in second.stderr
    assert "Traceback" not in second.stderr
