"""``maskloop models``: look at model versions, and say by hand which one serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import console

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from pipeline.runtime import Runtime
    from pipeline.tables import ModelVersion

app = typer.Typer(help="Model versions: list, show, promote, roll back.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Name = Annotated[str, typer.Argument(help="As `maskloop models list` names it.")]


@app.command(name="list")
def list_versions(as_json: Json = False) -> None:
    """All versions, newest first."""
    from pipeline import versions

    with _runtime().sessions() as session:
        rows = [_row(version) for version in versions.versions(session)]
    if as_json:
        console.print_json(rows)
    elif rows:
        console.print_table(rows)
    else:
        console.stdout.print("No version is registered yet; the first click or encode does that.")


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """One version, and every number the gate judged it by."""
    from pipeline import versions

    with _runtime().sessions() as session:
        version = versions.find(session, name)
        report = _row(version) | {"encoder": version.encoder, "sha256": version.sha256}
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
def promote(name: Name, as_json: Json = False) -> None:
    """Let a version serve, whatever the gate said; backends follow within a second or two."""
    from pipeline import registry

    runtime = _runtime()
    with runtime.sessions.begin() as session:
        version = registry.find(session, name)
        # A version that cannot be loaded must not be made the one that serves.
        registry.load_version(version, runtime.store, runtime.settings)
        registry.promote(session, version)
        row = _row(version)
    _tell(row, as_json)


@app.command()
def rollback(as_json: Json = False) -> None:
    """Let the version serve that served before; backends follow within a second or two."""
    from pipeline import versions

    with _runtime().sessions.begin() as session:
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
    from pipeline import versions

    decision = versions.decision(session, version)
    if decision is None:
        return {"judgement": None, "metrics": None}
    return {"judgement": decision.reason, "metrics": decision.metrics}


def _runtime() -> Runtime:
    from pipeline.runtime import Runtime
    from pipeline.settings import load_settings

    return Runtime(load_settings())
