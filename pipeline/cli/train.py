"""``maskloop train``: trains a checkpoint on pictures and masks."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import Json, Limit, Split, open_runtime

app = typer.Typer(help="Train a checkpoint on pictures and masks.", no_args_is_help=True)


@app.command()
def text(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="Holds manifest.jsonl that names what the instances are, images/ and masks/; "
            "default: the accepted masks of the loop and their labels."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The checkpoint to write, FILE.safetensors.")] = Path(
        "text.safetensors"
    ),
    base: Annotated[
        str | None,
        typer.Option(help="A file, or the name of a model version; default: the base."),
    ] = None,
    tower: Annotated[
        str,
        typer.Option(
            help="small: knows only the names in the data, needs no network. MODEL/TAG: a CLIP "
            "text tower of open_clip, such as ViT-B-32/laion2b_s34b_b79k. MODEL:FILE: its weights."
        ),
    ] = "small",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 600,
    batch: Annotated[int, typer.Option(min=1, help="Words in one step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    decoder: Annotated[
        bool, typer.Option("--decoder", help="Train the decoder too; this changes all masks.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Learn from this split only.")] = None,
    check: Annotated[str | None, typer.Option(help="Measure on this split afterwards.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Teach a checkpoint words: name an object, and its mask appears.

    The image encoder does not change, and neither does the decoder without --decoder. To continue
    a run that was killed, repeat its command.
    """
    from model.training.text_training import TextTrainConfig
    from pipeline.training.text import train_text_file

    config = TextTrainConfig(
        tower=tower,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        decoder=0.1 if decoder else 0.0,
        seed=seed,
    )
    with open_runtime() as runtime:
        report = train_text_file(
            runtime,
            data,
            out,
            config,
            base=base,
            split=split,
            check=check,
            bars=console.progress_bar,
        )
    if as_json:
        console.print_json(report)
        return
    checked = report.pop("checked") or {}
    console.print_pairs(report | {"names": ", ".join(report["names"])})
    console.print_pairs({f"checked {key}".replace("_", " "): v for key, v in checked.items()})
    console.stdout.print(
        f"`maskloop models add {out}` registers it, and says how to let it serve.",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def default(
    config: Annotated[
        Path, typer.Option(help="The recipe, a YAML file like those in model/recipes/.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; a killed run continues from it.")],
    device: Annotated[str, typer.Option(help="torch device: cpu, cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train the default network, or a larger one, by a recipe.

    On several GPUs: torchrun --nproc-per-node N -m pipeline.cli train default ...
    """
    from model.progress import silent
    from model.training.recipe import read_recipe
    from model.training.train import train

    leads = os.environ.get("RANK", "0") == "0"  # torchrun runs this once for each GPU
    with console.progress_bar("Training") if leads else nullcontext(silent) as bar:
        train(read_recipe(config), out, device, bar)
    if not leads:
        return
    weights, curves = out / "model.safetensors", out / "log.csv"
    if as_json:
        console.print_json({"checkpoint": weights, "curves": curves})
    else:
        console.stdout.print(
            f"{weights} is trained; its curves are in {curves}.", markup=False, soft_wrap=True
        )


@app.command()
def score(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint; its weights stay as they are.")],
    data: Annotated[Path, typer.Argument(help="Pictures and masks that it did not learn from.")],
    split: Split = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(help="Seed of the kinds of prompts.")] = 0,
    as_json: Json = False,
) -> None:
    """Fit the score of a checkpoint's masks to the IoU that they really have.

    A .safetensors file is changed in place. For another file, such as a released .pth, a
    .safetensors file is written next to it.
    """
    from model.checkpoints import files as checkpoints
    from model.data.datasets import read_folder
    from model.errors import CheckpointError
    from model.evaluation.calibration import calibrate

    out = checkpoint.with_suffix(".safetensors")
    if out != checkpoint and out.exists():
        raise CheckpointError(
            f"{out} is there already and would be replaced by the result for {checkpoint.name}; "
            "move or rename one of them."
        )
    model = checkpoints.load(checkpoint)
    with console.progress_bar("Prompting") as bar:
        model.config = calibrate(model, read_folder(data, split)[:limit], seed, bar)
    checkpoints.save(model, out, exact=True)  # a rounded encoder would make every embedding useless
    if as_json:
        console.print_json({"checkpoint": out, "confidence": model.config.confidence})
    else:
        console.stdout.print(
            f"The scores of {out} are fitted to {data}.", markup=False, soft_wrap=True
        )
