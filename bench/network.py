"""Measures the network's time against the machine's peak speed: ``python -m bench.network``.

For the released shape (ViT-B sax2 at 1024, random weights) and the shipped model, it measures the
seconds of an encode, of a click, of a click with the previous mask, and of each of 256 clicks on
one image, all with masks of full size. For each it also gives the share of that time which the same
matrix products would take at this machine's measured peak. Then it compares one click with
``bench.plain``, the same network without optimisations, and measures the memory of a click beyond
the weights. The module is longer than 300 lines because its figures share their subjects.

    python -m bench.network [--json FILE] [--prompts 256] [--repeats 3] [--threads 2] [--quick]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from bench import plain
from model.checkpoints.files import default_checkpoint, load
from model.files import write_file
from model.inference import precision
from model.masks import iou
from model.network.config import SegNextConfig
from model.network.embedding import Embedding
from model.network.prompts import Box, Click, Prompt
from model.network.segnext import SegNext

WIDTH, HEIGHT = 1024, 768
LARGE = (6000, 4000)  # width and height of a photograph of 24 megapixels
QUICK = SegNextConfig(
    size=256, dim=192, depth=4, heads=6, fusion_heads=6, neck=(32, 64, 96, 128), head=64
)
LOW = torch.bfloat16
PICTURES = ("astronaut", "chelsea", "coffee", "rocket")  # photographs in scikit-image
BLOCK = re.compile(r"\w+\.(fusion_)?blocks\.\d+")

Image = npt.NDArray[np.uint8]
Table_ = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Subject:
    """A network in float32 and in lower precision, and the images and prompts it is run with."""

    name: str
    exact: SegNext
    low: SegNext
    pictures: tuple[Image, ...]
    prompts: tuple[Prompt, ...]


def network(name: str, *, quick: bool = False) -> SegNext:
    """For "released" the shape of ``vitb_sax2`` with random weights, else the shipped model."""
    if name == "small":
        return load(default_checkpoint())
    torch.manual_seed(0)
    return SegNext(QUICK if quick else SegNextConfig()).eval()


def picture(name: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image:
    """A photograph of scikit-image, scaled to (width, height) in pixels."""
    from skimage import data

    resized = cv2.resize(getattr(data, name)(), size, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(resized, np.uint8)


def clicks(n: int, seed: int = 0) -> tuple[Prompt, ...]:
    places = np.random.default_rng(seed).uniform(0.1, 0.9, (n, 2)) * (HEIGHT, WIDTH)
    return tuple(Prompt((Click(row, col),)) for row, col in places.tolist())


def subject(name: str, *, quick: bool) -> Subject:
    exact = network(name, quick=quick)
    low = copy.deepcopy(exact)
    precision.lower(low, LOW)
    if name == "small":
        prompts = (*clicks(3), Prompt(boxes=(Box(100, 300, 600, 700),)))
        pictures = tuple(map(picture, PICTURES[: 1 if quick else None]))
        return Subject(name, exact, low, pictures, prompts)
    photo = picture(PICTURES[0])
    # Random weights do not outline objects. With the threshold at the median of their answer, half
    # of all pixels are in the mask and nearly all are close to its edge. This is the hardest case
    # for a lower precision.
    answer = exact.decode(exact.encode(photo), clicks(1)[0])
    threshold = float(np.median(answer.full()))
    exact.config = low.config = replace(exact.config, threshold=threshold)
    return Subject(name, exact, low, (photo,), clicks(3))


def measure(quick: bool, prompts: int, repeats: int) -> Table_:
    """Measure all figures, in seconds, GFLOP, MB and shares; nothing is printed."""
    peaks = {dtype: peak(dtype, quick=quick) for dtype in (torch.float32, LOW)}
    released, small = (subject(name, quick=quick) for name in ("released", "small"))
    # The comparison comes first and takes turns, so that other work on the machine slows both
    # sides equally.
    against = against_plain(released, repeats)
    return {
        "machine": machine(),
        "quick": quick,
        "peak_gflops": {_short(dtype): round(value, 1) for dtype, value in peaks.items()},
        "against_plain": against,
        "memory_mb": [
            memory(name, size, quick=quick)
            for name in ("released", "small")
            for size in ((WIDTH, HEIGHT), LARGE)[quick:]
        ],
        "agreement": [agreement(each) for each in (released, small)],
        "times": [
            times(each.name, model, each.pictures[0], peaks, dtype, prompts, repeats)
            for each in (small, released)
            for model, dtype in ((each.exact, torch.float32), (each.low, LOW))
        ],
    }


def machine() -> Table_:
    return {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 2),
    }


def peak(dtype: torch.dtype, *, quick: bool) -> float:
    """GFLOP/s of the best of some square matrix products."""
    side = 512 if quick else 3072
    matrix = torch.rand(side, side).to(dtype)
    return max(2e-9 * side**3 / seconds(lambda: matrix @ matrix) for _ in range(8))


def times(
    name: str,
    model: SegNext,
    photo: Image,
    peaks: dict[torch.dtype, float],
    dtype: torch.dtype,
    prompts: int,
    repeats: int,
) -> Table_:
    """Medians for one network in one precision."""
    embedding = model.encode(photo)
    first = clicks(1)[0]
    second = replace(first, mask=model.decode(embedding, first).probability)

    def click(prompt: Prompt) -> None:
        model.decode(embedding, prompt).mask()

    def many() -> None:
        for answer in model.decode_many(embedding, clicks(prompts)):
            answer.mask()

    encode, once = lambda: model.encode(photo), lambda: click(first)
    result: Table_ = {"network": name, "blocks": _short(dtype), "prompts": prompts}
    for what, work in (("encode", encode), ("click", once)):
        flops, in_blocks = count(work)
        taken = median(work, repeats)
        ideal = in_blocks / peaks[dtype] + (flops - in_blocks) / peaks[torch.float32]
        result |= {
            f"{what}_s": taken,
            f"{what}_gflop": round(flops, 2),
            f"{what}_share_of_peak": round(ideal / taken, 3),
        }
    result["second_click_s"] = median(lambda: click(second), repeats)
    result["each_of_many_s"] = seconds(many) / prompts
    return result


def count(work: Callable[[], object]) -> tuple[float, float]:
    """GFLOP of all matrix products, and of those inside transformer blocks."""
    # PyTorch's counter does not count the fused attention of CPUs.
    fused = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}
    with FlopCounterMode(display=False, custom_mapping=fused) as counter:
        work()
    by_module = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    blocks = sum(flops for name, flops in by_module.items() if BLOCK.fullmatch(name))
    return counter.get_total_flops() / 1e9, blocks / 1e9


def _attention(query: Sequence[int], key: Sequence[int], *_: object, **__: object) -> int:
    """FLOP of softmax(QK')V, from shapes ``[B, heads, N, dim]``."""
    return 4 * query[0] * query[1] * query[2] * query[3] * key[2]


def against_plain(released: Subject, repeats: int) -> Table_:
    """One click of the released shape with its mask, by our network and by ``bench.plain``."""
    photo, first = released.pictures[0], released.prompts[0]
    exact, threshold = released.exact, released.exact.config.threshold
    auto = precision.choose("auto", exact)
    serving = exact if auto == torch.float32 else released.low
    embedding = exact.encode(photo)
    plainly, ours = plain.decode(exact, embedding, first), exact.decode(embedding, first)
    taken: dict[str, list[float]] = {"plain": [], "fp32": [], "auto": []}
    for _ in range(repeats):
        taken["plain"].append(seconds(lambda: plain.decode(exact, embedding, first) > threshold))
        taken["fp32"].append(seconds(lambda: exact.decode(embedding, first).mask()))
        taken["auto"].append(seconds(lambda: serving.decode(embedding, first).mask()))
    click = {name: statistics.median(each) for name, each in taken.items()}
    encoded: list[Embedding] = []
    return {
        "auto": _short(auto),
        **{f"click_s_{name}": taken for name, taken in click.items()},
        "ratio_fp32": round(click["fp32"] / click["plain"], 3),
        "ratio_auto": round(click["auto"] / click["plain"], 3),
        "encode_plain_s": seconds(lambda: encoded.append(plain.encode(exact, photo))),
        "features_apart": float((encoded[0].features - embedding.features).abs().max()),
        "probabilities_apart": float(np.abs(plainly - ours.full()).max()),
        "iou_fp32": iou(plainly > threshold, ours.mask()),
        "iou_auto": iou(plainly > threshold, serving.decode(embedding, first).mask()),
    }


def agreement(each: Subject) -> Table_:
    """IoU of masks in lower precision with those in float32: for encoding and decoding in lower
    precision, and for decoding only."""
    both, decoded = [], []
    for photo in each.pictures:
        embedding, lower = each.exact.encode(photo), each.low.encode(photo)
        for prompt in each.prompts:
            mask = each.exact.decode(embedding, prompt).mask()
            both.append(iou(mask, each.low.decode(lower, prompt).mask()))
            decoded.append(iou(mask, each.low.decode(embedding, prompt).mask()))
    return {
        "network": each.name,
        "blocks": _short(LOW),
        "masks": len(both),
        "mean_iou": round(statistics.fmean(both), 5),
        "least_iou": round(min(both), 5),
        "mean_iou_of_clicks": round(statistics.fmean(decoded), 5),
    }


def memory(name: str, size: tuple[int, int], *, quick: bool) -> Table_:
    """Peak memory in MB of two clicks with their masks and of an encode, in a separate process."""
    command = [sys.executable, "-m", "bench.memory", name, *map(str, size)]
    command += ["--threads", str(torch.get_num_threads()), *(["--quick"] if quick else [])]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    result: Table_ = json.loads(run.stdout)
    return result


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median(work: Callable[[], object], repeats: int) -> float:
    return statistics.median(seconds(work) for _ in range(repeats))


def _short(dtype: torch.dtype) -> str:
    return next(name for name, each in precision.DTYPES.items() if each == dtype)


def show(title: str, cases: Sequence[Table_]) -> None:
    """A table with a row for each figure and a column for each case."""
    view = Table(title=title, title_justify="left", show_header=False)
    for name in cases[0]:
        values = (case[name] for case in cases)
        view.add_row(
            name.replace("_", " "),
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in values),
        )
    Console().print(view)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--prompts", type=int, default=256, help="clicks on one image at once")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median counts")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--quick", action="store_true", help="a tiny released shape: a rehearsal")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.quick, arguments.prompts, arguments.repeats)
    peaks = {f"peak GFLOP/s, {name}": value for name, value in result["peak_gflops"].items()}
    show("The machine", [result["machine"] | peaks])
    show("A click of the released shape, ours and plain", [result["against_plain"]])
    show("Memory beyond the weights, MB", result["memory_mb"])
    show("Masks of lowered blocks and of float32", result["agreement"])
    show("Times, and share of the measured peak", result["times"])
    if arguments.json:
        write_file(arguments.json, json.dumps(result, indent=2).encode())


if __name__ == "__main__":
    main()
