"""Reads FiftyOne's App as the data team sees it: the grid, its colours, the number of samples."""

from __future__ import annotations

import io
import re
import time

import numpy as np
from PIL import Image as Pillow
from playwright.sync_api import HttpCredentials, Page, TimeoutError, expect

from pipeline.settings import Settings

PATIENCE = 60_000  # ms for the page, on a busy machine


def visit(page: Page, settings: Settings, path: str = "") -> None:
    """Open the App, and again if it shows nothing, because a view may not be written yet."""
    dismiss = page.get_by_text("Dismiss", exact=True)
    counted = page.get_by_text(re.compile(r"^\d+ samples?$|^No samples yet$")).first
    for last in (False, False, True):
        page.goto(f"http://127.0.0.1:{settings.fiftyone.port}/{path}")
        try:
            counted.wait_for()
            break
        except TimeoutError:
            if last:
                raise
    if dismiss.is_visible():  # an advertisement that catches every click
        dismiss.click()


def login_of(settings: Settings) -> HttpCredentials:
    """The login of the App, as a browser gives it."""
    user, password = settings.fiftyone_login
    return {"username": user, "password": password}


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
