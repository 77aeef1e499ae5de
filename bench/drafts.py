"""The part of ``bench.clicks`` that measures clicks with many accepted masks in the draft."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from rich.console import Console
from rich.progress import track
from sqlalchemy import select

from bench.annotators import PROJECT, Picture, Thing, World, blob, request, save, send
from bench.backends import Backend, register
from model.masks import resized
from pipeline.labelstudio.regions import brush_region, mask_of
from pipeline.labelstudio.types import RegionJson
from pipeline.masks.coded import CodedMask
from pipeline.masks.ops import probability_to_png
from pipeline.record.tables import Interaction, Task
from pipeline.record.versions import serving
from pipeline.runtime import Runtime

FIRST_TASK = 1_000_000
VISITS = 8  # of each case, after a first one for warm-up
DRAFTS = ((1, 100), (4, 40))  # (scale of the picture's sides, masks in its draft)
RADII = (0.04, 0.15)  # of a mask, in heights of the picture

Region = RegionJson


@dataclass(frozen=True, eq=False)
class Case:
    """Visits to one object with many masks in the draft, which are clicked here or proposed."""

    picture: Picture
    tasks: range
    masks: str
    draft: tuple[Region, ...]


def prepare(runtime: Runtime, world: World, folder: Path) -> list[Case]:
    """Make the pictures, tasks and drafts of all cases, and log the clicked masks."""
    cases: list[Case] = []
    for scale, count in DRAFTS:
        picture = _scaled(world.pictures[0], scale)
        save(picture, folder, scale)
        regions = _regions(picture, count)
        for masks, draft in (
            ("none", ()),
            (f"{count} clicked", regions),
            (f"{count} proposed", regions),
        ):
            first = FIRST_TASK + (VISITS + 1) * len(cases)
            cases.append(Case(picture, range(first, first + VISITS + 1), masks, draft))
    register(runtime, [(task, case.picture) for case in cases for task in case.tasks])
    for case in cases:
        if case.masks.endswith("clicked"):
            _log(runtime, case)
    return cases


def measure(backend: Backend, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """A row of medians in milliseconds for each case.

    The cases take turns, so that other work on the machine slows all of them equally.
    """
    client_ms: dict[int, list[list[float]]] = {k: [] for k in range(len(cases))}
    backend_ms: dict[int, list[list[float]]] = {k: [] for k in range(len(cases))}
    sizes = [0] * len(cases)
    with httpx.Client(base_url=backend.address, timeout=120, trust_env=False) as client:
        visits = range(VISITS + 1) if cases else range(0)
        for number in track(visits, "Drafts", console=Console(stderr=True)):
            for k, case in enumerate(cases):
                thing, seen, inside = case.picture.things[0], [], []
                for turn in range(len(thing.clicks)):
                    task = case.tasks[number]
                    body = request(task, case.picture, thing.clicks[: turn + 1], case.draft)
                    before = backend.counters()["seconds"]
                    seen.append(1000 * send(client, task, turn, body).seconds)
                    inside.append(1000 * (backend.counters()["seconds"] - before))
                    sizes[k] = len(body)
                if number:
                    client_ms[k].append(seen)
                    backend_ms[k].append(inside)
    return [
        _row(case, sizes[k], client_ms[k], backend_ms[k], backend_ms[k - k % 3])
        for k, case in enumerate(cases)
    ]


def _row(
    case: Case,
    size: int,
    client: list[list[float]],
    backend: list[list[float]],
    none: list[list[float]],
) -> dict[str, Any]:
    first = statistics.median(visit[0] for visit in backend)
    later = statistics.median(ms for visit in backend for ms in visit[1:])
    return {
        "picture": f"{case.picture.width}x{case.picture.height}",
        "masks": case.masks,
        "request_mb": round(size / 1e6, 2),
        "client_first_ms": round(statistics.median(visit[0] for visit in client), 1),
        "client_later_ms": round(statistics.median(ms for v in client for ms in v[1:]), 1),
        "backend_first_ms": round(first, 1),
        "backend_later_ms": round(later, 1),
        "ratio_first": round(first / statistics.median(visit[0] for visit in none), 2),
        "ratio_later": round(later / statistics.median(ms for v in none for ms in v[1:]), 2),
    }


def _scaled(picture: Picture, scale: int) -> Picture:
    things = tuple(
        Thing(
            thing.middle * scale,
            thing.outline * scale,
            tuple((x * scale, y * scale, positive) for x, y, positive in thing.clicks),
        )
        for thing in picture.things
    )
    name = f"draft-{scale}.jpg"
    return Picture(name, picture.width * scale, picture.height * scale, things)


def _regions(picture: Picture, count: int) -> tuple[Region, ...]:
    """Blobs that do not touch the clicked object."""
    rng = np.random.default_rng(1)
    taken = picture.things[0].mask(picture.width, picture.height)
    regions: list[Region] = []
    while len(regions) < count:
        radius = picture.height * rng.uniform(*RADII)
        found = blob(rng, radius, picture.width, picture.height)
        if found is None:
            continue
        mask = found.mask(picture.width, picture.height)
        if (mask & taken).any():
            continue
        regions.append(
            brush_region(
                region_id=hashlib.sha256(f"{picture.name}-{len(regions)}".encode()).hexdigest()[
                    :12
                ],
                mask=CodedMask.of_mask(mask),
                label="Object",
                from_name="mask",
                to_name="image",
                score=0.9,
            )
        )
    return tuple(regions)


def _log(runtime: Runtime, case: Case) -> None:
    """Log a reply for each mask of a draft, as for a click on its middle."""
    shape = (case.picture.height // 8, case.picture.width // 8)
    masks = [mask_of(region) for region in case.draft]
    small = [resized(mask, shape) for mask in masks if mask is not None]
    pngs = [probability_to_png(mask.astype(np.float32)) for mask in small]
    with runtime.sessions.begin() as session:
        version = serving(session)
        assert version is not None
        known = select(Task).where(Task.ls_project_id == PROJECT, Task.ls_task_id.in_(case.tasks))
        for task in session.scalars(known).all():
            assert task.image_id is not None
            for k, region in enumerate(case.draft):
                rows, columns = np.nonzero(small[k])
                mark = {"id": f"{task.id}-{k}", "kind": "click", "positive": True}
                mark |= {"x": 8.0 * float(columns.mean()), "y": 8.0 * float(rows.mean())}
                session.add(
                    Interaction(
                        task_id=task.id,
                        image_id=task.image_id,
                        region_id=region["id"],
                        label="Object",
                        prompts=[mark],
                        model_version_id=version.id,
                        probability=pngs[k],
                        rle=bytes(region["value"]["rle"]),
                        score=0.9,
                        milliseconds=0.0,
                    )
                )
