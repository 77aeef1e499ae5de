"""Every kind of prompt, with the weights that ship, on pictures of 100 x 100 and of 6000 x 4000."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from model.checkpoints.files import default_checkpoint, load
from model.evaluation.curves import click_curve
from model.evaluation.simulation import START_KINDS, start_prompt
from model.inference.second_look import Looker, Sight
from model.masks import Mask, iou
from model.network.prompts import Click, Prompt

TINY, LARGE = (100, 100), (4000, 6000)
Pixels = npt.NDArray[np.uint8]
Axes = tuple[int, int]  # height and width of an object
TINY_PLACES: dict[Axes, tuple[int, int]] = {(40, 30): (30, 30), (14, 18): (75, 70)}
LARGE_PLACES: dict[Axes, tuple[int, int]] = {
    (1500, 1200): (1000, 1500),
    (300, 420): (3000, 900),
    (90, 120): (2600, 4700),
}


def ground(size: tuple[int, int], colour: tuple[int, int, int], seed: int) -> Pixels:
    """An uneven colour with a fine grain, like that of a lawn or a wall."""
    rng = np.random.default_rng(seed)
    height, width = size
    patches = cv2.resize(
        rng.integers(0, 60, (7, 9, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    grain = rng.integers(0, 30, (min(height, 256), min(width, 256), 3), np.uint8)
    times = (-(-height // grain.shape[0]), -(-width // grain.shape[1]), 1)
    pixels = cv2.add(patches, np.tile(grain, times)[:height, :width])
    return np.asarray(cv2.add(pixels, (*colour, 0)), np.uint8)


def ellipse(size: tuple[int, int], place: tuple[int, int], axes: tuple[int, int]) -> Mask:
    """A filled ellipse, turned a little; ``axes`` are its height and width."""
    mask = np.zeros(size, np.uint8)
    cv2.ellipse(mask, ((place[1], place[0]), (axes[1], axes[0]), 20.0), 1, -1)
    return mask.astype(np.bool_)


@dataclass(frozen=True, eq=False)
class Picture:
    """An encoded picture, and the objects in it."""

    sight: Sight
    objects: dict[Axes, Mask]


def picture(looker: Looker, size: tuple[int, int], places: dict[Axes, tuple[int, int]]) -> Picture:
    """A picture of a dull background with a bright ellipse at each place."""
    pixels = ground(size, (40, 70, 40), 0)
    above = ground(size, (170, 90, 30), 1)
    objects = {axes: ellipse(size, place, axes) for axes, place in places.items()}
    for mask in objects.values():
        pixels[mask] = above[mask]
    return Picture(looker.encode(pixels), objects)


@pytest.fixture(scope="module")
def looker() -> Looker:
    return Looker(load(default_checkpoint()))


@pytest.fixture(scope="module")
def tiny(looker: Looker) -> Picture:
    return picture(looker, TINY, TINY_PLACES)


@pytest.fixture(scope="module")
def large(looker: Looker) -> Picture:
    return picture(looker, LARGE, LARGE_PLACES)


@pytest.mark.parametrize("kind", START_KINDS)
@pytest.mark.parametrize("axes", TINY_PLACES)
def test_objects_of_a_tiny_picture(looker: Looker, tiny: Picture, kind: str, axes: Axes) -> None:
    target = tiny.objects[axes]
    found = looker.decode(tiny.sight, start_prompt(kind, target)).mask()
    assert iou(found, target) > 0.9


@pytest.mark.parametrize("kind", START_KINDS)
@pytest.mark.parametrize("axes", LARGE_PLACES)
def test_objects_of_a_large_picture(looker: Looker, large: Picture, kind: str, axes: Axes) -> None:
    """The smallest object covers 8 x 6 pixels of the whole image at the network's input size."""
    target = large.objects[axes]
    found = looker.decode(large.sight, start_prompt(kind, target)).mask()
    assert found.shape == LARGE and iou(found, target) > 0.9


@pytest.mark.parametrize("kind", START_KINDS)
def test_clicks_after_any_prompt_do_not_spoil_it(looker: Looker, large: Picture, kind: str) -> None:
    target = large.objects[90, 120]
    curve = click_curve(looker, large.sight, target, clicks=3, start=kind)
    assert curve.iou.min() > 0.9
    assert len(large.sight.windows) < 40  # most windows are used again


def test_without_a_second_look_a_small_object_is_not_found(looker: Looker, large: Picture) -> None:
    target = large.objects[90, 120]
    for kind in START_KINDS:
        once = looker.model.decode(large.sight.whole, start_prompt(kind, target)).mask()
        assert iou(once, target) < 0.7


def test_a_negative_click_beside_a_small_object(looker: Looker, large: Picture) -> None:
    prompt = start_prompt("click", large.objects[90, 120])
    prompt = Prompt((*prompt.clicks, Click(2600, 4800, positive=False)))
    found = looker.decode(large.sight, prompt).mask()
    assert iou(found, large.objects[90, 120]) > 0.9 and not found[2600, 4800]
