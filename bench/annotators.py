"""Simulated annotators for ``bench.clicks``.

The module makes pictures with known objects and the requests that Label Studio sends for clicks on
them, and checks whether each answer belongs to the picture that was clicked. It is longer than 300
lines because pictures, clicks and checks share one description of an object.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import numpy.typing as npt

from model.masks import Mask, iou
from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.template import default_label_config

Pixels = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float64]

PROJECT = 1
OBJECTS = 4  # on each picture; the first of them is large
RADII = (0.06, 0.38)  # of an object, in heights of the picture
THUMB = 64  # pixels across, at which outlines are compared
ALIKE = 0.75  # any two objects of all pictures have an IoU below this
RIGHT = 0.9  # smallest IoU of a right answer with the answer to the same clicks without load


@dataclass(frozen=True, eq=False)
class Thing:
    """An object: its middle, its outline ``[n, 2]`` and the clicks of a visit, of which the second
    is an Alt+click next to the object. All are (x, y) in pixels of its picture."""

    middle: Points
    outline: Points
    clicks: tuple[tuple[float, float, bool], ...] = ()

    def mask(self, width: int, height: int, scale: float = 1.0) -> Mask:
        """The object's mask, bool ``[height * scale, width * scale]``."""
        canvas = np.zeros((round(height * scale), round(width * scale)), np.uint8)
        cv2.fillPoly(canvas, [np.rint(self.outline * scale).astype(np.int32)], 1)
        return canvas > 0


@dataclass(frozen=True, eq=False)
class Picture:
    name: str
    width: int
    height: int
    things: tuple[Thing, ...]

    @property
    def url(self) -> str:
        return f"/data/local-files/?d={self.name}"

    def paint(self, rng: np.random.Generator) -> Pixels:
        """Coloured objects with a highlight, on an uneven background, with noise."""
        size = (self.width, self.height)
        coarse = rng.uniform(70, 150, (5, 7, 3)).astype(np.float32)
        pixels = np.asarray(cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC), np.float32)
        gleam = np.linspace(0.8, 1.1, self.width, dtype=np.float32)[None, :, None]
        for thing in self.things:
            colour = np.where(rng.permutation([True, False, rng.random() < 0.5]), 235.0, 25.0)
            edge = cv2.GaussianBlur(thing.mask(*size).astype(np.float32), (0, 0), 1.0)[..., None]
            pixels = (1 - edge) * pixels + edge * colour.astype(np.float32) * gleam
        noisy = pixels + rng.normal(0, 5, pixels.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Reply:
    """One answered click: its task, its number within the visit, and its times from
    ``perf_counter``."""

    task: int
    turn: int
    began: float
    ended: float
    body: bytes

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, eq=False)
class World:
    """The pictures, and the object of each task. Each visit is a separate task. As in Label Studio,
    tasks come in order: the first object of every picture, then the second of every picture, and
    so on."""

    pictures: tuple[Picture, ...]

    def visit(self, task: int) -> tuple[int, int]:
        """The index of the picture and the index of its object for a task, counted from 1."""
        lap, picture = divmod(task - 1, len(self.pictures))
        return picture, (picture + lap) % OBJECTS

    def thing(self, task: int) -> tuple[Picture, Thing]:
        picture, thing = self.visit(task)
        return self.pictures[picture], self.pictures[picture].things[thing]


def make_world(count: int, width: int, height: int) -> World:
    """Make pictures in which no object has a shape and place similar to another object's."""
    rng = np.random.default_rng(0)
    scale = THUMB / width
    known = np.zeros((count * OBJECTS, round(height * scale) * THUMB), np.float32)
    n = 0
    pictures = []
    for index in range(count):
        things: list[Thing] = []
        while len(things) < OBJECTS:
            # The large object comes first, while there is space for it.
            low, high = (0.24, RADII[1]) if not things else (RADII[0], 0.2)
            found = blob(rng, height * np.exp(rng.uniform(*np.log((low, high)))), width, height)
            if found is None:
                continue
            thumb = found.mask(width, height, scale).astype(np.float32).ravel()
            if not _is_free(found, things, thumb, known[:n]):
                continue
            things.append(found)
            known[n], n = thumb, n + 1
        pictures.append(
            Picture(
                f"{index}.jpg",
                width,
                height,
                tuple(_clicked(thing, width, height) for thing in things),
            )
        )
    return World(tuple(pictures))


def blob(rng: np.random.Generator, radius: float, width: int, height: int) -> Thing | None:
    """A blob of one to five lobes; None when a part of it would be outside the picture."""
    middle = rng.uniform((0, 0), (width, height))
    angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    lobes = 1 + rng.uniform(0, 0.25) * np.cos(rng.integers(2, 6) * angles)
    across = np.stack([np.cos(angles), rng.uniform(0.5, 1) * np.sin(angles)], 1)
    turn = rng.uniform(0, np.pi)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    outline = middle + radius * lobes[:, None] * across @ turned
    inside = (outline > 2).all() and (outline < (width - 2, height - 2)).all()
    return Thing(middle, outline) if inside else None


def _is_free(
    thing: Thing, others: Sequence[Thing], thumb: npt.NDArray[np.float32], known: npt.NDArray[Any]
) -> bool:
    """Whether it differs from all known objects and is not close to those of its picture."""
    if any(
        np.linalg.norm(thing.middle - other.middle) < 1.1 * (_reach(thing) + _reach(other))
        for other in others
    ):
        return False
    common = known @ thumb
    return not (common >= ALIKE * (known.sum(1) + thumb.sum() - common)).any()


def _reach(thing: Thing) -> float:
    return float(np.linalg.norm(thing.outline - thing.middle, axis=1).max())


def _clicked(thing: Thing, width: int, height: int) -> Thing:
    """The object with its clicks: the middle, Alt+click just outside its edge, its other half."""
    edge = thing.outline - thing.middle
    near = int(np.argmin(np.linalg.norm(edge, axis=1)))
    beside = np.clip(thing.middle + 1.2 * edge[near], (0, 0), (width, height))
    within = thing.middle - 0.6 * edge[(near + len(edge) // 4) % len(edge)]
    spots = ((thing.middle, True), (beside, False), (within, True))
    clicks = tuple((float(spot[0]), float(spot[1]), positive) for spot, positive in spots)
    return Thing(thing.middle, thing.outline, clicks)


def request(
    task: int, picture: Picture, clicks: Sequence[tuple[float, float, bool]], draft: Any = ()
) -> bytes:
    """The request body of Label Studio for the clicks so far, with the regions of the draft."""
    marks = [
        {
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
            "value": {
                "x": 100 * x / picture.width,
                "y": 100 * y / picture.height,
                "width": 0.6,
                "labels": ["Object"],
                "keypointlabels": ["Object"],
            },
            "is_positive": positive,
            "id": f"{task}-{k}",
            "from_name": "click",
            "to_name": "image",
            "type": "keypointlabels",
            "origin": "manual",
        }
        for k, (x, y, positive) in enumerate(clicks)
    ]
    shown = {
        "id": task,
        "data": {"image": picture.url},
        "project": PROJECT,
        "annotations": [],
        "drafts": [{"id": 1, "result": list(draft)}] if draft else [],
    }
    body = {
        "tasks": [shown],
        "project": f"{PROJECT}.1795328252",
        "label_config": default_label_config(),
        "params": {"login": None, "password": None, "context": {"result": marks}},
    }
    return json.dumps(body).encode()


def visit(client: httpx.Client, task: int, picture: Picture, thing: Thing) -> Iterator[Reply]:
    """Send each click of a visit after the answer to the previous one; times are of requests."""
    for turn in range(len(thing.clicks)):
        body = request(task, picture, thing.clicks[: turn + 1])
        yield send(client, task, turn, body)


def send(client: httpx.Client, task: int, turn: int, body: bytes) -> Reply:
    began = time.perf_counter()
    response = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    ended = time.perf_counter()
    response.raise_for_status()
    return Reply(task, turn, began, ended, response.content)


def crowd(
    address: str,
    world: World,
    tasks: Iterator[int],
    annotators: int,
    seconds: float,
    pause: float = 0.0,
    watch: Callable[[], float] = lambda: 0.0,
) -> tuple[list[Reply], list[float]]:
    """Let annotators click at the same time.

    Args:
        pause: mean seconds that they look at an answer before the next click; each pause is drawn
            from 0.5 to 1.5 times this value.

    Returns:
        The replies in the order of their answers, and the value of ``watch`` at each second.
    """
    ready = threading.Barrier(annotators)

    def annotate(number: int) -> list[Reply]:
        rng = np.random.default_rng(number)
        replies: list[Reply] = []
        with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
            client.get("/health").raise_for_status()
            ready.wait(60)
            end = time.perf_counter() + seconds
            while True:
                task = next(tasks)
                for reply in visit(client, task, *world.thing(task)):
                    replies.append(reply)
                    if reply.ended >= end:
                        return replies
                    time.sleep(pause * rng.uniform(0.5, 1.5))

    with ThreadPoolExecutor(annotators) as pool:
        working = [pool.submit(annotate, number) for number in range(annotators)]
        watched = []
        while wait(working, timeout=1.0).not_done:
            watched.append(watch())
    found = itertools.chain.from_iterable(each.result() for each in working)
    return sorted(found, key=lambda reply: reply.ended), watched


def answered(body: bytes, picture: Picture) -> Mask:
    """The mask of an answer; an empty mask when it has no region."""
    (prediction,) = json.loads(body)["results"]
    regions = [each for each in prediction["result"] if each["type"] != "textarea"]  # no notice
    if regions:
        (region,) = regions
        mask = mask_of(region)
        if mask is not None and mask.shape == (picture.height, picture.width):
            return mask
    return np.zeros((picture.height, picture.width), np.bool_)


@dataclass(frozen=True)
class Check:
    """How well answers fit: their mean IoU with the objects, their smallest IoU with the answers
    without load, and the answers for which that IoU is below ``RIGHT``."""

    object_iou: float
    least_iou: float
    wrong: tuple[Reply, ...]


def check(
    world: World, replies: Sequence[Reply], alone: Mapping[tuple[int, int], Sequence[bytes]]
) -> Check:
    """Compare each answer with the answer to the same clicks without load.

    Args:
        alone: by picture and object, the mask after each click of a visit, as ``np.packbits``.
    """
    fits, objects, wrong = [1.0], [], []
    for reply in replies:
        picture, thing = world.thing(reply.task)
        mask = answered(reply.body, picture)
        fits.append(iou(mask, unpacked(alone[world.visit(reply.task)][reply.turn], picture)))
        objects.append(iou(mask, thing.mask(picture.width, picture.height)))
        if fits[-1] < RIGHT:
            wrong.append(reply)
    return Check(float(np.mean(objects)), min(fits), tuple(wrong))


def packed(mask: Mask) -> bytes:
    return np.packbits(mask).tobytes()


def unpacked(data: bytes, picture: Picture) -> Mask:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=picture.height * picture.width)
    return bits.reshape(picture.height, picture.width).astype(np.bool_)


def save(picture: Picture, folder: Path, seed: int) -> None:
    pixels = picture.paint(np.random.default_rng(seed))
    cv2.imwrite(str(folder / picture.name), pixels[..., ::-1], [int(cv2.IMWRITE_JPEG_QUALITY), 92])
