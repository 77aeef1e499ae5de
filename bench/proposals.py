"""Measures proposals: ``python -m bench.proposals FOLDER [--split S] [--json FILE]``.

Masks are proposed for every image of a folder (``manifest.jsonl``, ``images/``, ``masks/``), and
each proposal is compared with each instance at the original size. A proposal meets an instance when
their IoU is at least 0.5. Recall is the share of instances with a proposal of an IoU of at least
0.5 (``AR50``) or 0.75; large instances cover 2 % of the image or more. ``right`` is the share of
proposals that meet an instance, which is a lower bound for a set with unlabelled objects.
``double`` is the share of proposals that meet an instance which another proposal meets better.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.checkpoints import files as checkpoints
from model.data.datasets import IGNORE, MaskItem, read_folder
from model.files import write_file
from model.inference.proposals import ProposalConfig, propose
from model.network.segnext import SegNext

LARGE = 0.02  # of an image's pixels


@dataclass(frozen=True, eq=False)
class Found:
    """The proposals on one image.

    Attributes:
        iou: IoU of each proposal with each instance, float [P, N].
        areas: area of each instance as a share of the image, float [N].
        seconds: time of proposing, without encoding the image.
    """

    iou: npt.NDArray[np.float64]
    areas: npt.NDArray[np.float64]
    seconds: float


def look_at(model: SegNext, item: MaskItem, config: ProposalConfig) -> Found:
    indices = item.load_mask()
    known = indices != IGNORE
    numbers = [number for number in np.unique(indices) if number not in (0, IGNORE)]
    instances = np.stack([indices == number for number in numbers]).reshape(len(numbers), -1)
    embedding = model.encode(item.load_image())
    began = time.perf_counter()
    proposals = propose(model, embedding, config)
    seconds = time.perf_counter() - began
    iou = np.zeros((len(proposals), len(numbers)))
    for row, proposal in zip(iou, proposals, strict=True):
        mask = (proposal.prediction.mask() & known).ravel()
        common = np.count_nonzero(instances & mask, axis=1)
        row[:] = common / (mask.sum() + instances.sum(1) - common)
    return Found(iou, instances.mean(1), seconds)


def summarize(found: list[Found]) -> dict[str, float]:
    """The figures of images that hold at least one instance each."""
    best = np.concatenate([each.iou.max(0, initial=0) for each in found])  # of each instance
    large = np.concatenate([each.areas for each in found]) >= LARGE
    meets = [each.iou.max(1, initial=0) >= 0.5 for each in found]  # of each proposal
    met = [len(set(each.iou.argmax(1)[hit])) for each, hit in zip(found, meets, strict=True)]
    proposals = sum(len(hit) for hit in meets)
    right = sum(int(hit.sum()) for hit in meets)
    return {
        "images": len(found),
        "instances": len(best),
        "proposals per image": proposals / len(found),
        "AR50": float((best >= 0.5).mean()),
        "AR50 of large ones": float((best[large] >= 0.5).mean()) if large.any() else 0.0,
        "AR75": float((best >= 0.75).mean()),
        "right": right / max(proposals, 1),
        "double": (right - sum(met)) / max(proposals, 1),
        "mean IoU of those met": float(best[best >= 0.5].mean()) if (best >= 0.5).any() else 0.0,
        "seconds per image": float(np.median([each.seconds for each in found])),
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    path = arguments.checkpoint or checkpoints.default_checkpoint()
    model = checkpoints.load(path)
    given = {name: getattr(arguments, name) for name in ("grid", "min_stability")}
    config = ProposalConfig(**{name: value for name, value in given.items() if value is not None})
    items = read_folder(arguments.folder, arguments.split)
    chosen = items[:: max(len(items) // (arguments.limit or len(items)), 1)][: arguments.limit]
    found = [
        look_at(model, item, config)
        for item in track(chosen, "Proposing", console=Console(stderr=True))
        if set(np.unique(item.load_mask())) - {0, IGNORE}
    ]
    return {
        "checkpoint": path.name,
        "folder": str(arguments.folder),
        "split": arguments.split,
        "threads": arguments.threads,
        "config": asdict(config),
        **summarize(found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", help="only this split of the manifest")
    parser.add_argument("--limit", type=int, help="only this many images, spread over the folder")
    parser.add_argument("--checkpoint", type=Path, help="default: the shipped one")
    parser.add_argument("--grid", type=int, help="default: as `maskloop propose`")
    parser.add_argument("--min-stability", type=float, help="default: as `maskloop propose`")
    parser.add_argument("--threads", type=int, default=2, help="torch CPU threads")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    report = run(arguments)
    view = Table(title=f"Proposals on {arguments.folder.name}", show_header=False)
    for name, value in report.items():
        view.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console().print(view)
    if arguments.json:
        write_file(arguments.json, json.dumps(report, indent=2).encode())


if __name__ == "__main__":
    main()
