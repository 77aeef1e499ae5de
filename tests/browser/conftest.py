"""A real Chromium for the tests in this folder, and an annotator in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, StorageState, ViewportSize, sync_playwright

from tests.browser.page import LabelStudioPage
from tests.services.label_studio import LabelStudioServer, label_studio

__all__ = ["label_studio"]

CHROMIUM_VARIABLE = "MASKLOOP_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Containers have no user namespaces, so there is no sandbox. The other flags stop requests to the
# browser's maker.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SIZE = ViewportSize(width=1400, height=1000)


def chromium(own: str) -> str | None:
    """The browser to use: the one in the environment, the system's, or playwright's ``own``."""
    named = os.environ.get(CHROMIUM_VARIABLE)
    found = named or next(filter(None, map(shutil.which, NAMES)), own)
    return found if Path(found).is_file() else None


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = chromium(playwright.chromium.executable_path)
        if path is None:
            pytest.skip(f"needs Chromium: install it, or name it in {CHROMIUM_VARIABLE}")
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def login(browser: Browser, label_studio: LabelStudioServer) -> StorageState:
    """The cookies of an account that has only logged in."""
    context = browser.new_context(viewport=SIZE)
    LabelStudioPage(context.new_page(), label_studio).log_in()
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def annotator(
    browser: Browser, label_studio: LabelStudioServer, login: StorageState
) -> Iterator[LabelStudioPage]:
    """A logged-in annotator with a new browser context, without settings of another test."""
    context = browser.new_context(viewport=SIZE, storage_state=login)
    yield LabelStudioPage(context.new_page(), label_studio)
    context.close()
