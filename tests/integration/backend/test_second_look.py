"""Clicks on small objects of large pictures, through the whole backend."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import create_engine, func, select

from model.masks import iou
from model.network.segnext import SegNext
from pipeline.record.tables import Embedding
from pipeline.settings import ModelSettings, Settings
from tests.editor import Editor, backend, box, click, disk, save, settings_for

pytestmark = pytest.mark.integration

SIZE = HEIGHT, WIDTH = 1200, 1600
SPOTS = {(300, 400): 15, (800, 1100): 20, (600, 200): 12}  # (row, column): radius


def picture() -> NDArray[np.uint8]:
    """Small orange spots on green."""
    rng = np.random.default_rng(0)
    pixels = np.full((*SIZE, 3), (60, 90, 60), np.float32)
    for (row, column), radius in SPOTS.items():
        pixels[disk(row, column, radius, SIZE)] = (235, 130, 20)
    return np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


def on(row: int, column: int) -> tuple[float, float]:
    return 100 * column / WIDTH, 100 * row / HEIGHT


def truth(row: int, column: int) -> NDArray[np.bool_]:
    return disk(row, column, SPOTS[row, column], SIZE)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the encoded windows, in order; the whole picture is not among them."""
    seen: list[tuple[int, ...]] = []
    encode = SegNext.encode

    def watched(model: SegNext, pixels: Any) -> Any:
        if pixels.shape[:2] != SIZE:
            seen.append(pixels.shape)
        return encode(model, pixels)

    monkeypatch.setattr(SegNext, "encode", watched)
    return seen


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = settings_for(tmp_path)
    save(picture(), tmp_path / "files" / "spots.png")
    return made


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with backend(settings) as running:
        yield running


def editor(client: httpx.Client, task: int = 1) -> Editor:
    return Editor(client, url="/data/local-files/?d=spots.png", task=task)


def test_a_click_and_a_box_outline_what_is_small(
    settings: Settings, client: httpx.Client, windows: list[Any]
) -> None:
    for task, (row, column) in enumerate(SPOTS, start=1):
        x, y = on(row, column)
        clicked = editor(client, task).mask(click("a", x, y))
        assert iou(clicked, truth(row, column)) > 0.8
        wide, high = 100 * 44 / WIDTH, 100 * 44 / HEIGHT
        boxed = editor(client, 10 + task).mask(box("b", x - wide / 2, y - high / 2, wide, high))
        assert iou(boxed, truth(row, column)) > 0.8
    assert windows
    engine = create_engine(settings.sql_url)
    with engine.connect() as connection:  # only the whole image has a row
        assert connection.scalar(select(func.count(Embedding.id))) == 1
    engine.dispose()
    assert len(list(Path(settings.store_address).glob("embeddings/**/*.safetensors"))) == 1
    assert "maskloop_window_seconds_count" in client.get("/metrics").text


def test_the_next_click_goes_on_where_the_first_looked(
    client: httpx.Client, windows: list[Any]
) -> None:
    spot = (800, 1100)
    annotator = editor(client)
    first = click("a", *on(*spot))
    annotator.ask(first)
    looked_at = len(windows)
    assert looked_at
    second = click("b", *on(spot[0] + 30, spot[1]), positive=False)
    assert iou(annotator.mask(first, second), truth(*spot)) > 0.8
    # The same window as before, or a new one if the second click made it larger.
    assert len(windows) - looked_at <= 1
    third = click("c", *on(spot[0] + 5, spot[1]))
    before = len(windows)
    assert iou(annotator.mask(first, second, third), truth(*spot)) > 0.8
    assert len(windows) == before
    assert annotator.ask(first, second) == annotator.ask(first, second)


def test_clicks_at_once_are_all_answered(client: httpx.Client) -> None:
    def ask(task: int) -> float:
        spot = list(SPOTS)[task % len(SPOTS)]
        return iou(editor(client, task).mask(click("a", *on(*spot))), truth(*spot))

    with ThreadPoolExecutor(6) as pool:
        assert min(pool.map(ask, range(1, 7))) > 0.8


def without(settings: Settings) -> Settings:
    return settings.model_copy(update={"model": ModelSettings(device="cpu", second_look="off")})


def test_it_can_be_turned_off(settings: Settings, windows: list[Any]) -> None:
    with backend(without(settings)) as client:
        assert editor(client).send(click("a", *on(300, 400))).status_code == 200
    assert not windows


def test_a_picture_that_was_lost_is_answered_without_a_second_look(
    settings: Settings, caplog: pytest.LogCaptureFixture, windows: list[Any]
) -> None:
    with backend(without(settings)) as client:
        editor(client).send(click("a", *on(300, 400)))  # encodes the picture
    for path in Path(settings.store_address).glob("images/**/*.png"):
        path.unlink()
    with backend(settings) as client:
        assert editor(client).send(click("b", *on(800, 1100))).status_code == 200
    assert "without a second look" in caplog.text and not windows
