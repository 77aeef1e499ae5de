"""The real FiftyOne App in a real Chromium: what the data team sees, and how the server ends."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from PIL import Image as Pillow
from playwright.sync_api import Page, expect, sync_playwright

from pipeline.mirror import mirror
from tests.mirror_world import World, accept, make_world
from tests.mongod import free_port, mongod_uri

__all__ = ["mongod_uri"]  # pytest finds the fixture here

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 90
PATIENCE = 60_000  # ms for the page, on a busy machine


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mongod_uri: str) -> Iterator[World]:
    home = tmp_path_factory.mktemp("fiftyone-app") / "home"
    made = make_world(home, mongod_uri, "app-test", port=free_port())
    yield made
    made.sessions.kw["bind"].dispose()


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[psutil.Popen]:
    """``python -m pipeline.fiftyone_app``, started before any mirror has run."""
    process = start(world, world.settings.fiftyone.port)
    yield process
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium: install chromium to run the browser tests")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1400, "height": 900})
        opened.set_default_timeout(PATIENCE)
        yield opened
        browser.close()


def start(world: World, port: int) -> psutil.Popen:
    settings = world.settings
    environment = {
        **os.environ,
        "MASKLOOP_HOME": str(settings.home),
        "MASKLOOP_FIFTYONE__DATABASE_URI": settings.fiftyone.database_uri,
        "MASKLOOP_FIFTYONE__DATASET": settings.fiftyone.dataset,
        "MASKLOOP_FIFTYONE__PORT": str(port),
    }
    with (settings.home / "app.log").open("ab") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "pipeline.fiftyone_app"],
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
        except (URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    process.kill()
    pytest.fail((settings.home / "app.log").read_text())


def visit(page: Page, world: World, path: str = "") -> None:
    page.goto(f"http://127.0.0.1:{world.settings.fiftyone.port}/{path}")
    dismiss = page.get_by_text("Dismiss", exact=True)
    page.get_by_text(re.compile(r"^\d+ samples?$|^No samples yet$")).first.wait_for()
    if dismiss.is_visible():  # an advertisement that takes every click
        dismiss.click()


def green_share(page: Page) -> float:
    """Share of the page's grid that has the colour of accepted masks, laid over a photograph."""
    shot = Pillow.open(io.BytesIO(page.screenshot())).convert("RGB")
    red, green, blue = np.moveaxis(np.asarray(shot, dtype=int)[130:, 310:], 2, 0)
    return float(((green > red + 20) & (green > blue + 20)).mean())


def wait_for_green(page: Page, least: float) -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while (share := green_share(page)) < least:
        assert time.monotonic() < deadline, f"masks cover {share:.2%} of the grid"
        page.wait_for_timeout(250)


def samples(page: Page, count: int) -> None:
    expect(page.get_by_text(f"{count} samples", exact=True)).to_be_visible(timeout=PATIENCE)


def test_the_app_opens_on_the_dataset_before_anything_is_mirrored(
    server: psutil.Popen, page: Page, world: World
) -> None:
    visit(page, world)
    expect(page.get_by_text("No samples yet")).to_be_visible()
    assert page.url.endswith("/datasets/app-test")


def test_masks_are_seen_at_once(server: psutil.Popen, page: Page, world: World) -> None:
    mirror(world.sessions, world.store, world.settings)
    visit(page, world)
    samples(page, 12)
    wait_for_green(page, 0.01)


def test_next_round_is_there_in_its_order(server: psutil.Popen, page: Page, world: World) -> None:
    mirror(world.sessions, world.store, world.settings)
    visit(page, world, "datasets/app-test?view=next-round")
    samples(page, 3)
    expect(page.locator("input[value=next_round], :text('next_round')").first).to_be_visible()
    assert green_share(page) < 0.005  # nothing in it is labelled
    visit(page, world)  # a link to a view leaves the front page as it is
    samples(page, 12)


def test_a_mask_mirrored_later_is_seen_after_loading_the_page_again(
    server: psutil.Popen, page: Page, world: World
) -> None:
    mirror(world.sessions, world.store, world.settings)
    visit(page, world, "datasets/app-test?view=accepted")
    samples(page, 4)
    with world.sessions.begin() as session:
        accept(session, world.task_ids[9])
    mirror(world.sessions, world.store, world.settings)
    page.reload()
    samples(page, 5)


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
        [sys.executable, "-m", "pipeline.fiftyone_app"],
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
