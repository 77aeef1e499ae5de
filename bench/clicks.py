"""Measures clicks of several annotators at once: ``python -m bench.clicks [--json FILE]``.

The shipped model runs with two torch threads in a backend in a separate process, on 200 pictures of
1024x768 that are drawn here and encoded beforehand. For 60 s each, 1, 4 and 16 annotators take the
next task, click an object, Alt+click next to it, click it once more, and take the next task. They
never pause, so 16 of them are the load of many more people. Times are of whole HTTP requests, and
client and backend share the cores. Each visit is to a new object, so these times include the
encoding of windows for second looks, as for real annotators. The backend's memory may grow until
its caches of pictures and embeddings are full (``images.cache_mb``, ``model.cache_mb``), and no
further.

Every answer is then compared with the model's answer to the same clicks without load, in this
process: a mask whose IoU with it is below 0.9 counts as wrong. The backend has
OMP_WAIT_POLICY=passive, as `maskloop up` sets it. Set it for this process too, or torch's threads
spend most of their time waiting for each other.

Each row is measured twice: for annotators who never pause, and for annotators who look at each
answer for ``--pause`` seconds. For comparison, the same clicks are answered with the encoder run at
each click, as in Label Studio's own SAM 2 example: in this process, the picture's file is read,
decoded and encoded, and the click is answered. That comparison has no HTTP, SQL or RLE, which is in
its favour. Larger networks are measured in the same way (``bench.baselines``), among them the
encoder of that example.

Last come clicks of one annotator with accepted masks in the draft, which Label Studio sends with
every click: 100 masks on such a picture, and 40 on one of 12 megapixels. They are either clicked
here, so the backend's log has them, or proposals, which the log does not have. ``backend`` is
``maskloop_predict_seconds``; only the client's time includes the parsing of the request.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from bench import annotators, baselines, drafts, network
from bench.annotators import Reply, World, make_world
from bench.backends import Backend, register, running_backend, settings_of
from model.checkpoints.files import default_checkpoint, load
from model.files import write_file
from model.inference.second_look import Looker
from model.network.prompts import Click, Prompt
from pipeline.images.decode import decode_image
from pipeline.masks.ops import clean
from pipeline.runtime import Runtime
from pipeline.settings import ImageSettings

TASKS_PER_SECOND = 60  # rows made beforehand; a faster backend makes the others itself
BASELINE_SECONDS = 20.0
SHOWN = 20  # wrong answers described in the JSON
MINUTE = 60  # seconds; the memory is read each second

Row = dict[str, Any]


def row_of(
    backend: Backend, world: World, tasks: Iterator[int], n: int, pause: float, seconds: float
) -> Row:
    """The figures of ``n`` annotators, with the answers themselves under "replies"."""
    before, rss = backend.counters(), backend.memory_mb
    replies, memory = annotators.crowd(
        backend.address, world, tasks, n, seconds, pause, lambda: backend.memory_mb
    )
    after = backend.counters()
    told = {name: after[name] - before[name] for name in after}
    taken = replies[-1].ended - min(reply.began for reply in replies)
    return {
        "annotators": n,
        "pause_s": pause,
        **figures([reply.seconds for reply in replies]),
        "clicks_per_s": round(len(replies) / taken, 1),
        "backend_mean_ms": round(1000 * told["seconds"] / max(told["clicks"], 1), 1),
        "windows_per_click": round(told["windows"] / max(told["clicks"], 1), 2),
        "window_mean_ms": round(1000 * told["window_seconds"] / max(told["windows"], 1), 1),
        "rss_before_mb": round(rss),
        "rss_peak_mb": round(max([rss, *memory])),
        "rss_after_mb": round(backend.memory_mb),
        "rss_each_minute_mb": [round(each) for each in memory[::MINUTE]],
        "replies": replies,
    }


def figures(seconds: Sequence[float]) -> Row:
    cuts = statistics.quantiles([1000 * each for each in seconds], n=100, method="inclusive")
    names = {"p50_ms": 49, "p95_ms": 94, "p99_ms": 98}
    return {"clicks": len(seconds)} | {name: round(cuts[k], 1) for name, k in names.items()}


class Alone:
    """Answers of the model in this process, without load: one click after the other."""

    def __init__(self, world: World, folder: Path) -> None:
        self._world = world
        self._folder = folder
        self._looker = Looker(load(default_checkpoint()))
        self._kept: dict[tuple[int, int], list[bytes]] = {}

    def visit(self, task: int, *, every_click: bool = False) -> list[float]:
        """Seconds of each click of a visit; its masks are kept.

        Args:
            every_click: read and encode the picture at each click, not only at the first.
        """
        picture, thing = self._world.thing(task)
        sight, mask, seconds, masks = None, None, [], []
        for turn in range(len(thing.clicks)):
            began = time.perf_counter()
            if sight is None or every_click:
                data = (self._folder / picture.name).read_bytes()
                sight = self._looker.encode(decode_image(data, ImageSettings()))
            clicks = tuple(Click(y, x, sign) for x, y, sign in thing.clicks[: turn + 1])
            answer = self._looker.decode(sight, Prompt(clicks, mask=mask))
            shown, mask = answer.mask(), answer.probability
            seconds.append(time.perf_counter() - began)
            masks.append(annotators.packed(clean(shown, [(c.row, c.col) for c in clicks])))
        self._kept[self._world.visit(task)] = masks
        return seconds

    def baseline(self, seconds: float) -> list[float]:
        """Seconds of each click of the first visits, with the encoder run at each click."""
        self.visit(1, every_click=True)  # warms up
        found: list[float] = []
        for task in itertools.count(1):
            found += self.visit(task, every_click=True)
            if sum(found) > seconds:
                break
        return found

    def masks(self, tasks: Iterable[int]) -> dict[tuple[int, int], list[bytes]]:
        """The masks of these visits, by picture and object."""
        missing = {self._world.visit(task): task for task in tasks}
        missing = {visit: task for visit, task in missing.items() if visit not in self._kept}
        for task in track(list(missing.values()), "Checking", console=Console(stderr=True)):
            self.visit(task)
        return self._kept


def judge(row: Row, world: World, alone: Alone) -> None:
    """Replace the answers in a row by figures of how well they fit."""
    replies: list[Reply] = row.pop("replies")
    kept = alone.masks(sorted({reply.task for reply in replies}))
    found = annotators.check(world, replies, kept)
    row["wrong_image"] = len(found.wrong)
    row["object_iou"] = round(found.object_iou, 3)
    row["least_iou_with_alone"] = round(found.least_iou, 3)
    row["wrong"] = [
        {"task": each.task, "turn": each.turn, "visit": world.visit(each.task)}
        for each in found.wrong[:SHOWN]
    ]


def measure(arguments: argparse.Namespace) -> Row:
    """Measure all figures; only progress is printed, to stderr."""
    torch.set_num_threads(arguments.threads)
    world = make_world(arguments.images, arguments.width, arguments.height)
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(Path(folder), arguments.threads)
        files = Path(folder) / "files"
        files.mkdir()
        for seed, picture in enumerate(world.pictures):
            annotators.save(picture, files, seed)
        runs = 2 * len(arguments.annotators)
        most = round(arguments.seconds * runs * TASKS_PER_SECOND) + len(world.pictures)
        with Runtime(settings, migrate=True) as runtime:
            register(runtime, ((task, world.thing(task)[0]) for task in range(1, most)))
            cases = drafts.prepare(runtime, world, files) if arguments.drafts else []
        tasks = itertools.count(1)
        with running_backend(settings) as backend:
            annotators.crowd(backend.address, world, tasks, 1, 0)  # warms up
            rows = [
                row_of(backend, world, tasks, n, pause, arguments.seconds)
                for pause in dict.fromkeys((0.0, arguments.pause))
                for n in arguments.annotators
            ]
            drafted = drafts.measure(backend, cases)
        alone = Alone(world, files)
        every_click = figures(alone.baseline(min(arguments.seconds, BASELINE_SECONDS)))
        for row in rows:
            judge(row, world, alone)
    return {
        "image": f"{arguments.width}x{arguments.height}",
        "images": arguments.images,
        "threads": arguments.threads,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "rows": rows,
        "every_click": every_click,
        "others": baselines.measure() if arguments.large else None,
        "drafts": drafted,
    }


def show(result: Row) -> None:
    machine = ("image", "images", "threads", "cores", "load_average", "omp_wait_policy")
    title = ", ".join(f"{name.replace('_', ' ')} {result[name]}" for name in machine)
    told = [{k: v for k, v in row.items() if k != "wrong"} for row in result["rows"]]
    every, ours = result["every_click"], told[0]["p50_ms"]
    told.append({name: every.get(name, "") for name in told[0]} | {"annotators": "each encoded"})
    console = Console(soft_wrap=True)
    console.print(f"Clicks on encoded pictures: {title}")
    network.show("", told)
    times = every["p50_ms"] / ours
    console.print(f"Our network, encoder at each click: {times:.2g} times our first p50.")
    if result["others"]:
        for each in result["others"]:
            each["times_our_p50"] = round(each["each_click_ms"] / ours, 1)
        network.show("Networks encoding at each click, beside the same", result["others"])
    if result["drafts"]:
        network.show("Accepted masks in the draft, medians of one annotator", result["drafts"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--annotators", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=60, help="of each number of annotators")
    parser.add_argument("--pause", type=float, default=2.0, help="of those who pause; 0: none")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--drafts", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--large", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    result = measure(arguments)
    show(result)
    if arguments.json:
        write_file(arguments.json, json.dumps(result, indent=2).encode())


if __name__ == "__main__":
    main()
