"""Measures masks on a set of pictures, and compares them with GrabCut.

    python -m bench.quality FOLDER [--dataset NAME ...] [--out DIR] [--json FILE]

For the largest instance of each picture it measures the network's mean IoU after the first prompt
(click, box, polygon, scribble, mask) and after each click that follows. It measures the same for
OpenCV's GrabCut from the true box and from its own simulated clicks, at 480 pixels. With ``--out``
it draws the curves, and a sheet of the best, the median and the worst masks after one click.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.checkpoints.files import default_checkpoint, load
from model.data.datasets import IGNORE, MaskItem, largest_instance, read_folder
from model.evaluation.curves import SCORED, click_curve, summarize
from model.evaluation.simulation import START_KINDS, box_around, next_click
from model.files import write_file
from model.masks import Mask, iou, resized
from model.network.confidence import calibration_error, rank_correlation
from model.network.segnext import SegNext

Pixels = npt.NDArray[np.uint8]
Curve = npt.NDArray[np.float64]

GRABCUT_SIDE = 480
GRABCUT_ROUNDS = 4
GRABCUT_CLICKS = 5
SHOWN = 5  # pictures of each row of the sheet
TILE = 220


@dataclass(frozen=True, eq=False)
class Case:
    """One picture: its pixels, the object, the network's mask after one click, and its IoU."""

    image: Pixels
    target: Mask
    mask: Mask
    iou: float


def grabcut_from_box(image: Pixels, target: Mask) -> Mask:
    """GrabCut that starts with everything outside the true box as background.

    Source: Rother, Kolmogorov and Blake, "GrabCut", SIGGRAPH 2004. ``image`` is uint8
    ``[H, W, 3]``, ``target`` and the result bool ``[H, W]``.
    """
    box = box_around(target)
    state = np.full(target.shape, cv2.GC_BGD, np.uint8)
    inside = slice(int(box.top), int(box.bottom)), slice(int(box.left), int(box.right))
    state[inside] = cv2.GC_PR_FGD
    return _grabcut(image, state)


def grabcut_from_clicks(image: Pixels, target: Mask, clicks: int) -> Curve:
    """IoU after each simulated click, float64 ``[clicks]``.

    A click marks a disk whose radius is 1 % of the side.
    """
    state = np.full(target.shape, cv2.GC_PR_BGD, np.uint8)
    mask, used = np.zeros_like(target), np.zeros_like(target)
    curve = np.ones(clicks)
    radius = max(round(max(target.shape) / 100), 1)
    for k in range(clicks):
        click = next_click(target, mask, used)
        if click is None:
            break
        sign = cv2.GC_FGD if click.positive else cv2.GC_BGD
        cv2.circle(state, (int(click.col), int(click.row)), radius, int(sign), -1)
        mask = _grabcut(image, state.copy())
        curve[k] = iou(mask, target)
    return curve


def _grabcut(image: Pixels, state: npt.NDArray[np.uint8]) -> Mask:
    """The mask that GrabCut makes of certain and probable pixels; the marked pixels if it fails."""
    sure = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if not sure.any() or sure.all():
        return sure
    model = np.zeros((2, 1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(
        image, state, (0, 0, 1, 1), model[0], model[1], GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK
    )
    return np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))


def measure(
    model: SegNext, items: list[MaskItem], clicks: int, kinds: Sequence[str] = START_KINDS
) -> tuple[dict[str, dict[str, float]], dict[str, Curve], list[Case]]:
    """Figures by method, mean curves by method, and, if ``kinds`` contains clicks, the cases."""
    curves: dict[str, list[Curve]] = {kind: [] for kind in kinds}
    scores: list[tuple[float, float]] = []
    cuts: dict[str, list[Curve]] = {"GrabCut, box": [], "GrabCut, clicks": []}
    cases: list[Case] = []
    for item in track(items, "Measuring", console=Console(stderr=True)):
        image, indices = item.load()
        target = largest_instance(indices)
        if target is None:
            continue
        known, embedding = indices != IGNORE, model.encode(image)
        for kind in kinds:
            found = click_curve(model, embedding, target, clicks, known, kind)
            curves[kind].append(found.iou)
            early = zip(found.answers[:SCORED], found.iou, strict=False)
            scores += [(answer.score, float(true)) for answer, true in early]
            if kind == "click":
                cases.append(Case(image, target, found.answers[0].mask(), float(found.iou[0])))
        small, small_target = _shrunk(image, target)
        if small_target.any():
            boxed = iou(grabcut_from_box(small, small_target), small_target)
            cuts["GrabCut, box"].append(np.array([boxed]))
            clicked = grabcut_from_clicks(small, small_target, GRABCUT_CLICKS)
            cuts["GrabCut, clicks"].append(clicked)
    means = {name: np.mean(found, axis=0) for name, found in (curves | cuts).items() if found}
    figures = {name: summarize(np.array(found)) for name, found in curves.items()}
    for name, cut in cuts.items():
        known_figures = summarize(np.array(cut)) if cut else {}
        figures[name] = {k: v for k, v in known_figures.items() if k == "n" or k.startswith("miou")}
    told, true = np.array(scores).reshape(-1, 2).T
    figures["score"] = {
        "error": calibration_error(told, true),
        "rank": rank_correlation(told, true),
    }
    return figures, means, cases


def _shrunk(image: Pixels, target: Mask) -> tuple[Pixels, Mask]:
    scale = min(1.0, GRABCUT_SIDE / max(target.shape))
    size = (max(round(target.shape[1] * scale), 1), max(round(target.shape[0] * scale), 1))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), resized(target, (size[1], size[0]))


def draw_curves(means: dict[str, Curve], path: Path) -> None:
    """Draw mean IoU by the number of prompts, one line for each method."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, curve in means.items():
        style = "--" if name.startswith("GrabCut") else "-"
        size = 3 if len(curve) > 1 else 7  # a point without a line is easily missed
        axes.plot(range(1, len(curve) + 1), curve, style, marker="o", ms=size, label=name)
    axes.set(xlabel="prompts: the first of its kind, then clicks", ylabel="mean IoU", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def draw_sheet(cases: list[Case], path: Path) -> None:
    """Draw the best, the median and the worst masks after one click; the true outline is yellow."""
    order = sorted(cases, key=lambda case: -case.iou)
    middle = max(len(order) // 2 - SHOWN // 2, 0)
    rows = [order[:SHOWN], order[middle : middle + SHOWN], order[-SHOWN:]]
    blank = np.full((TILE, TILE, 3), 255, np.uint8)
    strips = [np.hstack([*map(_tile, row), *[blank] * (SHOWN - len(row))]) for row in rows if row]
    cv2.imwrite(str(path), np.vstack(strips)[..., ::-1])


def _tile(case: Case) -> Pixels:
    shown = case.image.copy()
    shown[case.mask] = shown[case.mask] // 2 + np.array([0, 110, 60], np.uint8)
    outlines, _ = cv2.findContours(
        case.target.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(shown, outlines, -1, (255, 220, 0), max(max(shown.shape) // 200, 1))
    scale = TILE / max(shown.shape[:2])
    size = (max(round(shown.shape[1] * scale), 1), max(round(shown.shape[0] * scale), 1))
    small = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    tile = np.full((TILE, TILE, 3), 255, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    cv2.putText(tile, f"{case.iou:.2f}", (6, TILE - 8), 0, 0.6, (255, 255, 255), 3)
    cv2.putText(tile, f"{case.iou:.2f}", (6, TILE - 8), 0, 0.6, (0, 0, 0), 1)
    return tile


def table(figures: dict[str, dict[str, float]]) -> Table:
    columns = ("n", "miou1", "miou2", "miou3", "miou5", "noc85", "nof85", "noc90", "nof90")
    view = Table("first prompt", *columns, title="Mean IoU and clicks on the largest instance")
    for name, row in figures.items():
        if name != "score":
            view.add_row(name, *(_cell(row.get(column)) for column in columns))
    return view


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=default_checkpoint())
    parser.add_argument("--split")
    parser.add_argument("--dataset", nargs="+", help="only these of the manifest's data sets")
    parser.add_argument("--kind", nargs="+", choices=START_KINDS, default=START_KINDS)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--clicks", type=int, default=20)
    parser.add_argument("--out", type=Path, help="folder for curves.png and sheet.png")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    items = read_folder(arguments.folder, arguments.split)
    if arguments.dataset:
        items = [item for item in items if item.dataset in arguments.dataset]
    items = items[: arguments.limit]
    if not items:
        parser.error("no picture is of that data set")
    model = load(arguments.checkpoint)
    figures, means, cases = measure(model, items, arguments.clicks, arguments.kind)
    report = Console(width=100)
    report.print(table(figures))
    score = figures["score"]
    report.print(f"score: calibration error {score['error']:.3f}, rank {score['rank']:.3f}")
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw_curves(means, arguments.out / "curves.png")
        if cases:
            draw_sheet(cases, arguments.out / "sheet.png")
    if arguments.json:
        result: dict[str, Any] = {
            "figures": figures,
            "curves": {name: curve.round(4).tolist() for name, curve in means.items()},
        }
        write_file(arguments.json, json.dumps(result, indent=2).encode())


if __name__ == "__main__":
    main()
