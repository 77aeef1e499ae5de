"""Measures the gain of a second look on small objects.

    python -m bench.second_look FOLDER [--split NAME] [--mosaic N] [--json FILE]

The objects of a set of pictures are grouped by the share of the picture that they cover. For each
group it gives the mean IoU after 1 and after 3 prompts of the usual simulated annotator, without
and with second looks, from the same weights. Such sets have no large photographs, so ``--mosaic N``
puts each picture among others in N rows of N, which stands for a photograph N times as wide.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.checkpoints.files import default_checkpoint, load
from model.data.datasets import IGNORE, MaskItem, read_folder
from model.evaluation.curves import Network, click_curve
from model.evaluation.simulation import START_KINDS
from model.files import write_file
from model.inference.second_look import Looker
from model.masks import Mask
from model.network.segnext import SegNext

Pixels = npt.NDArray[np.uint8]

BANDS = (
    0.0,
    0.0005,
    0.0025,
    0.01,
    0.03,
    0.1,
)  # shares of the picture between which objects are counted
LEAST_PIXELS = 30  # of an object; the mask of a smaller one says little
PROMPTS = 3


@dataclass(frozen=True)
class Result:
    """One object and one kind of first prompt.

    Attributes:
        share: share of the picture that the object covers, in [0, 1].
        plain, looked: IoU after each prompt, without and with second looks.
        windows: how many answers with second looks came from a window.
        plain_seconds, looked_seconds: time of all prompts.
    """

    name: str
    index: int
    share: float
    start: str
    plain: list[float]
    looked: list[float]
    windows: int
    plain_seconds: float
    looked_seconds: float


def objects(indices: Pixels, most: int, rng: np.random.Generator) -> list[int]:
    """Up to ``most`` small instances of a mask, drawn at random."""
    areas = np.bincount(indices.ravel(), minlength=256)
    areas[[0, IGNORE]] = 0
    small = np.flatnonzero((areas >= LEAST_PIXELS) & (areas < BANDS[-1] * indices.size))
    return [int(index) for index in rng.permutation(small)[:most]]


def mosaic(
    image: Pixels, indices: Pixels, others: list[MaskItem], side: int, rng: np.random.Generator
) -> tuple[Pixels, Pixels]:
    """The picture at a random place among ``side`` rows of ``side`` pictures.

    The mask is empty outside this picture.
    """
    height, width = indices.shape
    pixels = np.empty((height * side, width * side, 3), np.uint8)
    mask = np.zeros(pixels.shape[:2], np.uint8)
    place = rng.integers(side * side)
    for k in range(side * side):
        row, column = divmod(k, side)
        cell = np.s_[row * height : (row + 1) * height, column * width : (column + 1) * width]
        if k == place:
            pixels[cell], mask[cell] = image, indices
        else:
            other = others[int(rng.integers(len(others)))].load_image()
            pixels[cell] = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    return pixels, mask


def measure(
    model: SegNext, items: list[MaskItem], starts: list[str], each: int, side: int
) -> Iterator[Result]:
    """Prompt up to ``each`` small objects of each picture, without and with second looks."""
    rng = np.random.default_rng(0)
    looker = Looker(model)
    for item in track([items[k] for k in rng.permutation(len(items))], "Prompting"):
        image, indices = item.load()
        chosen = objects(indices, each, rng)
        if not chosen:
            continue
        if side > 1:
            image, indices = mosaic(image, indices, items, side, rng)
        sight = looker.encode(image)
        known = indices != IGNORE
        for index in chosen:
            target = indices == index
            for start in starts:
                plain, plain_seconds, _ = _curve(model, sight.whole, target, known, start)
                looked, looked_seconds, windows = _curve(looker, sight, target, known, start)
                yield Result(
                    name=item.name,
                    index=index,
                    share=float(target.mean()),
                    start=start,
                    plain=plain,
                    looked=looked,
                    windows=windows,
                    plain_seconds=plain_seconds,
                    looked_seconds=looked_seconds,
                )


def _curve(
    network: Network, embedding: Any, target: Mask, known: Mask, start: str
) -> tuple[list[float], float, int]:
    began = time.perf_counter()
    curve = click_curve(network, embedding, target, PROMPTS, known, start)
    seconds = time.perf_counter() - began
    return curve.iou.tolist(), seconds, sum(answer.window is not None for answer in curve.answers)


def summary(results: list[Result]) -> list[dict[str, Any]]:
    """A row for each kind of first prompt and band of sizes, and one for all sizes."""
    rows = []
    for start in dict.fromkeys(result.start for result in results):
        for low, high in (*zip(BANDS, BANDS[1:], strict=False), (BANDS[0], BANDS[-1])):
            found = [r for r in results if r.start == start and low <= r.share < high]
            if not found:
                continue
            plain, looked = (np.array([getattr(r, k) for r in found]) for k in ("plain", "looked"))
            gain = looked - plain
            rows.append(
                {
                    "start": start,
                    "share": f"{100 * low:g} to {100 * high:g} %",
                    "objects": len(found),
                    "windows": round(sum(r.windows for r in found) / gain.size, 2),
                    **{
                        f"miou{k}{name}": round(float(curves[:, k - 1].mean()), 3)
                        for k in (1, 3)
                        for name, curves in (("", plain), ("_looked", looked))
                    },
                    # The standard error of the mean gain after 3 prompts. Twice this value in both
                    # directions is about a 95 % interval.
                    "standard_error": round(float(gain[:, 2].std() / np.sqrt(len(found))), 3),
                    "ms": round(1000 * sum(r.plain_seconds for r in found) / gain.size),
                    "ms_looked": round(1000 * sum(r.looked_seconds for r in found) / gain.size),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="images/, masks/ and manifest.jsonl")
    parser.add_argument("--split", help="of the manifest; default: all pictures")
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint())
    parser.add_argument("--start", action="append", choices=START_KINDS, help="click and box")
    parser.add_argument("--each", type=int, default=2, help="objects of a picture, at most")
    parser.add_argument("--limit", type=int, help="only this many pictures")
    parser.add_argument("--mosaic", type=int, default=1, help="rows, and pictures in each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write every object's numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load(arguments.checkpoint)
    items = read_folder(arguments.folder, arguments.split)[: arguments.limit]
    starts = arguments.start or ["click", "box"]
    results = list(measure(model, items, starts, arguments.each, arguments.mosaic))
    rows = summary(results)
    view = Table(title=f"{arguments.folder.name}, mosaic {arguments.mosaic}: mean IoU")
    for name in rows[0] if rows else ():
        view.add_column(name, justify="right")
    for row in rows:
        view.add_row(*map(str, row.values()))
    Console(width=160).print(view)
    if arguments.json:
        record = {"summary": rows, "objects": [asdict(result) for result in results]}
        write_file(arguments.json, json.dumps(record, indent=1).encode())


if __name__ == "__main__":
    main()
