"""Images of every kind, and a rotated view: each gives the right mask, or a sentence."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from model.masks import iou
from pipeline.labelstudio.regions import mask_of
from pipeline.settings import Settings
from tests.editor import (
    BALL,
    HEIGHT,
    ON_BALL,
    WIDTH,
    Editor,
    backend,
    box,
    click,
    photograph,
    save,
    settings_for,
)

pytestmark = pytest.mark.integration

GOOD = {
    "rgb.png": {},
    "cmyk.jpg": {"mode": "CMYK"},
    "palette.png": {"mode": "P"},
    "palette.gif": {"mode": "P"},
    "grey.png": {"mode": "L"},
    "clear.png": {"mode": "RGBA"},
    "photo.webp": {},
    "photo.tif": {},
}
BAD = {
    "empty.png": ("empty", b""),
    "text.png": ("not an image", b"This is no picture."),
    "cut.jpg": ("damaged or cut off", None),
    "bomb.png": ("pixels", None),
    "missing.png": ("cannot be read", None),
}


def write_all(folder: Path) -> None:
    whole = Image.fromarray(photograph())
    for name, options in GOOD.items():
        whole.convert(options.get("mode", "RGB")).save(folder / name)
    grey = np.asarray(whole.convert("L")).astype(np.uint16) << 8
    Image.fromarray(grey).save(folder / "sixteen.png")
    for orientation in (1, 6):
        save(photograph(), folder / f"turned-{orientation}.jpg", orientation=orientation)
    for name, (_, data) in BAD.items():
        if data is not None:
            (folder / name).write_bytes(data)
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=95)
    (folder / "cut.jpg").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    Image.new("1", (9000, 9000)).save(folder / "bomb.png")  # a few kB


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = settings_for(tmp_path_factory.mktemp("home"))
    assert made.images.files_root is not None
    write_all(made.images.files_root)
    return made


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[httpx.Client]:
    with backend(settings) as running:
        yield running


@pytest.fixture(scope="module")
def tasks() -> Iterator[int]:
    return iter(range(1, 1000))


@pytest.fixture
def editor(client: httpx.Client, tasks: Iterator[int]) -> Editor:
    return Editor(client, url="/data/local-files/?d=rgb.png", task=next(tasks))


def test_good_images_are_answered_between_bad_ones(
    client: httpx.Client, tasks: Iterator[int]
) -> None:
    good = [*GOOD, "sixteen.png", "turned-1.jpg", "turned-6.jpg"]
    for name, (wrong, (sentence, _)) in zip(good, cycle(BAD.items()), strict=False):
        editor = Editor(client, url=f"/data/local-files/?d={name}", task=next(tasks))
        assert iou(editor.mask(click("a", *ON_BALL)), BALL) > 0.85, name
        lost = Editor(client, url=f"/data/local-files/?d={wrong}", task=next(tasks))
        response = lost.send(click("a", *ON_BALL))
        assert response.status_code in (422, 424), response.text
        assert sentence in response.text, wrong
    assert client.get("/health").status_code == 200


def turned(mark: dict[str, Any], degrees: int) -> dict[str, Any]:
    return {**mark, "image_rotation": degrees}


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_in_a_turned_view_the_mask_is_the_same(
    editor: Editor, degrees: int, tasks: Iterator[int]
) -> None:
    """Label Studio keeps coordinates and masks in the frame that is not rotated."""
    for mark in (click("a", *ON_BALL), box("a", 7.5, 20, 45, 60)):
        straight = replace(editor, task=next(tasks)).mask(mark)
        region = replace(editor, task=next(tasks)).ask(turned(mark, degrees))
        found = mask_of(region)
        assert region["image_rotation"] == degrees
        assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
        assert found is not None and np.array_equal(found, straight)
        assert iou(found, BALL) > 0.85


def test_clicks_go_on_where_the_view_was_turned_between_them(editor: Editor) -> None:
    first = editor.ask(click("a", *ON_BALL))
    second = editor.ask(click("a", *ON_BALL), turned(click("b", 24, 42), 90))
    assert first["id"] == second["id"] and second["image_rotation"] == 90
    found = mask_of(second)
    assert found is not None and iou(found, BALL) > 0.85
