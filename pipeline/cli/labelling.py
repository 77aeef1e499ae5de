"""``maskloop connect``: connects a Label Studio project to the backend."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import Json, Project, open_runtime


class MaskKind(StrEnum):
    """The kinds of regions that can hold masks, as in ``pipeline.labelstudio.template``."""

    BRUSH = "brush"
    POLYGON = "polygon"
    VECTOR = "vector"
    BITMASK = "bitmask"


def connect(
    project: Project = None,
    template: Annotated[
        bool, typer.Option("--template", help="Replace the labelling config by maskloop's own.")
    ] = False,
    label: Annotated[
        list[str] | None, typer.Option(help="With --template: a label; repeat for each.")
    ] = None,
    output: Annotated[
        MaskKind, typer.Option(help="With --template: the kind of mask regions.")
    ] = MaskKind.BRUSH,
    text: Annotated[
        bool,
        typer.Option("--text", help="With --template: a text box to name the object in words."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Attach the backend and its webhooks to a Label Studio project, or repair them."""
    from pipeline.labelstudio.connect import Template
    from pipeline.labelstudio.connect import connect as attach

    wanted = Template(tuple(label or ()), output.value, text)
    if wanted != Template() and not template:
        raise typer.BadParameter("--label, --output and --text need --template.")
    with open_runtime() as runtime:
        report = attach(
            runtime.label_studio,
            runtime.settings,
            runtime.project(project),
            wanted if template else None,
        )
    if as_json:
        console.print_json(asdict(report))
        return
    console.stdout.print(
        f"{report.project_title!r} (project {report.project_id}) is connected to "
        f"{report.backend_url}.",
        markup=False,
    )
    for line in (*report.changed, *report.advice):
        console.stdout.print(f"- {line}", markup=False)
