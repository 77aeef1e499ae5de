"""``maskloop models``: shows model versions, adds new ones, and chooses which one serves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import console
from pipeline.cli.options import Background, Json, open_runtime, send

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from pipeline.record.tables import ModelVersion

app = typer.Typer(
    help="Model versions: list, show, add, export, promote, roll back.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="As `maskloop models list` names it.")]


@app.command(name="list")
def list_versions(as_json: Json = False) -> None:
    """List all versions, newest first."""
    from pipeline.record import versions

    with open_runtime() as runtime, runtime.sessions() as session:
        rows = [_row(version) for version in versions.versions(session)]
    if as_json:
        console.print_json(rows)
    elif rows:
        console.print_table(rows)
    else:
        console.stdout.print("No version is registered yet; the first click or encode does that.")


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show one version, and every number behind the gate's decision about it."""
    from pipeline.record import versions

    with open_runtime() as runtime, runtime.sessions() as session:
        version = versions.find(session, name)
        report = _row(version) | {
            "encoder": version.encoder,
            "sha256": version.sha256,
            "source": version.source,
            "source_sha256": version.source_sha256,
        }
        report |= _judgement(session, version)
    if as_json:
        console.print_json(report)
        return
    metrics = report.pop("metrics") or {}
    console.print_pairs(report)
    serving, gain = metrics.get("serving", {}), metrics.get("bootstrap", {})
    console.print_table(
        [
            {
                "figure": figure,
                "candidate": value,
                "serving": serving.get(figure),
                "gain_low": gain.get(figure, {}).get("low"),
                "gain_high": gain.get(figure, {}).get("high"),
            }
            for figure, value in metrics.get("candidate", {}).items()
        ]
    )


@app.command()
def add(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH|URL",
            help="A released checkpoint (vitb-sax1, vitb-sax2, vitb-sax2-hq), a file, an address.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the version; default: from the file's name.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a checkpoint, in our format or the SegNext authors'; the serving version stays."""
    from pipeline.registry.add import add as take_in

    with open_runtime() as runtime, console.progress_bar("Fetching", in_bytes=True) as bar:
        added = take_in(runtime.registry, what, name, bar)
    if as_json:
        console.print_json(asdict(added))
        return
    facts = asdict(added)
    is_new, same, serving = (facts.pop(key) for key in ("is_new", "same_encoder", "serving"))
    console.print_pairs({key.replace("_", " "): value for key, value in facts.items()})
    if not is_new:
        console.stdout.print(
            f"It was here already, as {added.name}; nothing changed.", markup=False
        )
    if serving == added.name:
        console.stdout.print("It serves.")
        return
    encoder = "the encoder of" if same else "another encoder than"
    lines = [
        f"`maskloop models promote {added.name}` lets it serve"
        + (f"; it has {encoder} {serving}, which serves" if serving else "")
        + ("." if same or not serving else ", so every image is encoded again first."),
        f'`base = "{added.name}"` under [model] in maskloop.toml lets fine-tunes start from it.',
    ]
    for line in lines:
        console.stdout.print(line, markup=False, soft_wrap=True)


@app.command()
def export(
    what: Annotated[
        str,
        typer.Argument(metavar="NAME|PATH", help="A version, or a checkpoint's file."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for encoder.onnx and decoder.onnx.")],
    as_json: Json = False,
) -> None:
    """Write the network as two ONNX files, for programs without PyTorch (docs/export.md)."""
    from model.export.onnx_files import export as write

    with open_runtime() as runtime:
        _, model = runtime.registry.load_named(what)
    exported = write(model, out)
    files = [
        {"file": str(path), "megabytes": round(path.stat().st_size / 1e6, 1)}
        for path in (exported.encoder, exported.decoder)
    ]
    agreement = asdict(exported.agreement)
    if as_json:
        console.print_json({"files": files} | agreement)
        return
    for each in files:
        line = "{file}  {megabytes} MB".format(**each)
        console.stdout.print(line, markup=False, highlight=False, soft_wrap=True)
    console.stdout.print(
        "Compared with PyTorch on {answers} answers, logits differ by at most "
        "{logits_difference:.1g}; the lowest IoU of two masks is {mask_iou:.4f}.".format(
            **agreement
        ),
        soft_wrap=True,
    )
    if model.config.text_tower:
        console.stdout.print("Words are not exported: the files take every prompt except text.")


@app.command()
def promote(
    name: Name,
    at_once: Annotated[
        bool, typer.Option("--now", help="Even if first clicks must wait for a new encoder.")
    ] = False,
    background: Background = False,
    as_json: Json = False,
) -> None:
    """Let a version serve, whatever the gate decided; backends use it within a second or two.

    If its encoder is new, every image is encoded first, while the present version answers.
    """
    from pipeline.errors import SettingsError
    from pipeline.queue import PROMOTE
    from pipeline.record import versions
    from pipeline.training.promote import promote as prepare_and_promote

    if at_once and background:
        raise SettingsError(
            "--now lets the version serve at once, without a worker; leave --background out."
        )
    with open_runtime() as runtime:
        if background:
            with runtime.sessions() as session:
                versions.find(session, name)
            send(runtime, PROMOTE, name, as_json=as_json)
            return
        with console.progress_bar("Encoding") as bar:
            version = prepare_and_promote(runtime, name, at_once=at_once, progress=bar)
    _tell(_row(version), as_json)


@app.command()
def rollback(as_json: Json = False) -> None:
    """Let the version that served before serve again; backends use it within a second or two."""
    from pipeline.record import versions

    with open_runtime() as runtime, runtime.sessions.begin() as session:
        row = _row(versions.rollback(session))
    _tell(row, as_json)


def _tell(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print_json(row)
    else:
        console.stdout.print(f"{row['name']} serves now.", markup=False)


def _row(version: ModelVersion) -> dict[str, Any]:
    promoted = version.promoted_at
    return {
        "name": version.name,
        "status": version.status,
        "snapshot": version.snapshot_id,
        "created_at": version.created_at.isoformat(timespec="seconds"),
        "promoted_at": None if promoted is None else promoted.isoformat(timespec="seconds"),
    }


def _judgement(session: Session, version: ModelVersion) -> dict[str, Any]:
    from pipeline.record import versions

    decision = versions.decision(session, version)
    if decision is None:
        return {"judgement": None, "metrics": None}
    return {"judgement": decision.reason, "metrics": decision.metrics}
