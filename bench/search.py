"""Measures each choice behind the default model: ``python -m bench.search DATA --out RUNS``.

It makes short training runs of equal length. Each run changes one thing compared with the first,
and is measured on DATA's ``val`` split: mean IoU after a box, and after 1, 3 and 5 clicks, with the
difference from the first run and its standard error over the same pictures. A killed search
continues when it is started again.

    python -m bench.search DATA --out RUNS --warm-start FILE [--steps 800] [--only NAME ...]
    python -m bench.search DATA --out RUNS --sizes 320 384 512     # no training: the input's size
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from model.checkpoints.files import default_checkpoint, load
from model.data.datasets import read_folder
from model.evaluation.curves import evaluate_folder
from model.files import write_file
from model.network.segnext import SegNext
from model.training.recipe import DataSource, Recipe
from model.training.train import train

CLICKS = 5
BASE = "as shipped"
SIZE = "input of {} pixels"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "another seed": {"seed": 1},  # shows the differences that are only chance
    # Without pretrained weights, the backbone needs no smaller learning rate to protect them.
    "no warm start": {"warm_start": None, "backbone_scale": 1.0},
    "no stride-4 and stride-8 skips": {"shape": {"detail": 0}},
    "one fusion block": {"shape": {"fusion_depth": 1}},
    "half as wide": {"shape": {"dim": 128, "neck": [32, 48, 64, 128], "head": 32, "detail": 24}},
    "clicks only": {"kinds": {"click": 1.0}},
    "edges count twice": {"edge": 1.0},
    "larger crops, as many pixels": {"crop": 320, "steps": 0.5},
    "no averaging": {"ema": 0.0},
}


def recipe(data: Path, warm_start: Path, steps: int, changes: dict[str, Any]) -> Recipe:
    """The short run of a variant: the default recipe with a quarter of its targets in each step."""
    changes = dict(changes)
    length = round(steps * changes.pop("steps", 1))
    short = Recipe(
        data=[DataSource(data, split="train")],
        warm_start=warm_start,
        steps=length,
        images=2,
        targets=8,
        crop=224,
        warmup=min(100, length // 4),
        ema=0.99,
        save_every=50,
    )
    return replace(short, **changes)


def measure(model: SegNext, data: Path, limit: int | None) -> dict[str, list[list[float]]]:
    """IoU of each picture's largest object, by first prompt and click, and the total seconds."""
    items = read_folder(data, "val")[:limit]
    curves = evaluate_folder(model, items, CLICKS, starts=("click", "box"))
    return {start: found.iou.round(4).tolist() for start, found in curves.items()}


def run(name: str, plan: Recipe, out: Path, data: Path, limit: int | None) -> None:
    """Train and measure, unless that was done before."""
    folder = out / name.replace(" ", "-").replace(",", "")
    report = folder / "report.json"
    if report.is_file():
        return
    with Progress(console=Console(stderr=True)) as progress:
        bar = progress.add_task(name, total=plan.steps)
        model = train(plan, folder, progress=lambda done, _: progress.update(bar, completed=done))
    lines = (folder / "log.csv").read_text().splitlines()[1:]
    seconds = sum(float(line.split(",")[3]) for line in lines)
    found = {"name": name, "seconds": seconds, "targets": plan.steps * plan.images * plan.targets}
    _write(report, found | {"parameters": _parameters(model)} | measure(model, data, limit))


def at_size(size: int, checkpoint: Path, out: Path, data: Path, limit: int | None) -> None:
    """Measure a checkpoint at another input size."""
    report = out / f"size-{size}" / "report.json"
    if report.is_file():
        return
    model = load(checkpoint)
    model.config = replace(model.config, size=size)
    began = time.monotonic()
    curves = measure(model, data, limit)
    found = {"name": SIZE.format(size), "seconds": round(time.monotonic() - began, 1), "targets": 0}
    _write(report, found | {"parameters": _parameters(model)} | curves)


def _parameters(model: SegNext) -> int:
    return sum(p.numel() for p in model.parameters())


def _write(report: Path, found: dict[str, Any]) -> None:
    write_file(report, json.dumps(found).encode())


def rows(out: Path, base: str) -> list[dict[str, Any]]:
    """A row for each report, with the differences from ``base`` if that is one of them."""
    reports = {}
    for path in sorted(out.glob("*/report.json"), key=lambda path: path.stat().st_mtime_ns):
        found = json.loads(path.read_text())
        reports[found["name"]] = found
    against = reports.get(base)
    return [_row(found, against if found is not against else None) for found in reports.values()]


def _row(found: dict[str, Any], base: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "name": found["name"],
        "targets": found["targets"],
        "minutes": round(found["seconds"] / 60, 1),
        "parameters": f"{found['parameters'] / 1e6:.1f} M",
        **{
            f"{start}{k}": _against(found[start], base[start] if base else None, k)
            for start, k in (("click", 1), ("click", 3), ("click", 5), ("box", 1))
        },
    }


def _against(curves: list[list[float]], base: list[list[float]] | None, k: int) -> str:
    """The mean after ``k`` prompts, and its difference from the base's with its standard error."""
    mine = np.array(curves)[:, k - 1]
    if base is None:
        return f"{mine.mean():.3f}"
    gain = mine - np.array(base)[:, k - 1]
    return f"{mine.mean():.3f} ({gain.mean():+.3f} ± {gain.std() / np.sqrt(len(gain)):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="its manifest needs the splits train and val")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--warm-start", type=Path, help="a timm state dict of mobilenetv2_100")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="variants; default: all")
    parser.add_argument("--sizes", type=int, nargs="+", help="input sizes to measure")
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint())
    parser.add_argument("--limit", type=int, help="only this many pictures of val")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.sizes:
        base = SIZE.format(load(arguments.checkpoint).config.size)
        for size in arguments.sizes:
            at_size(size, arguments.checkpoint, arguments.out, arguments.data, arguments.limit)
    elif arguments.warm_start is None:
        parser.error("training needs --warm-start")
    else:
        base = BASE
        for name in arguments.only or VARIANTS:
            plan = recipe(arguments.data, arguments.warm_start, arguments.steps, VARIANTS[name])
            run(name, plan, arguments.out, arguments.data, arguments.limit)
    found = rows(arguments.out, base)
    view = Table(*found[0], title="Mean IoU on val: the difference from the base ± standard error")
    for row in found:
        view.add_row(*map(str, row.values()))
    Console(width=160).print(view)
    if arguments.json:
        write_file(arguments.json, json.dumps(found, indent=1).encode())


if __name__ == "__main__":
    main()
