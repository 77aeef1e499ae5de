"""``maskloop eval``: measures how good a checkpoint's masks are."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import Json, Limit, Split, open_runtime


class FirstPrompt(StrEnum):
    """The first prompts of ``eval``: the kinds of ``model.evaluation.simulation``, or ``all``."""

    CLICK = "click"
    BOX = "box"
    POLYGON = "polygon"
    SCRIBBLE = "scribble"
    MASK = "mask"
    ALL = "all"


def evaluate(
    folder: Annotated[Path, typer.Argument(help="Holds manifest.jsonl, images/ and masks/.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(help="A file, or the name of a model version; default: the base."),
    ] = None,
    limit: Limit = None,
    clicks: Annotated[int, typer.Option(min=5, max=20, help="Simulated clicks each.")] = 20,
    split: Split = None,
    prompt: Annotated[
        FirstPrompt, typer.Option(help="First prompt on each object; all: measure each kind.")
    ] = FirstPrompt.CLICK,
    as_json: Json = False,
) -> None:
    """Measure a checkpoint with simulated clicks: NoC@85, NoC@90 and mean IoU by clicks.

    The target in each image is its largest instance. Each click is at the deepest point of the
    larger error, up to 20 clicks. NoC is the mean number of clicks to reach an IoU. A first prompt
    of another kind counts as the first click.
    """
    from pipeline.training.evaluate import evaluate_checkpoint

    with open_runtime() as runtime, console.progress_bar("Evaluating") as bar:
        report = evaluate_checkpoint(
            runtime,
            folder,
            checkpoint,
            limit=limit,
            clicks=clicks,
            split=split,
            prompt=prompt,
            progress=bar,
        )
    if as_json:
        console.print_json(report)
        return
    by_kind = report.pop("prompts", {})
    console.print_pairs(report)
    if by_kind:
        console.print_table([{"first prompt": kind, **row} for kind, row in by_kind.items()])
