"""``maskloop connect`` and ``maskloop projects``: the projects that maskloop serves."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import Json, Project, open_runtime

app = typer.Typer(help="The projects that maskloop serves.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(help="The number in the address of the project's page.")]


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
    from pipeline.record import projects

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
        with runtime.sessions.begin() as session:
            projects.put(session, report.project_id, report.project_title)
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


@app.command("list")
def list_projects(as_json: Json = False) -> None:
    """List the connected projects, and how far each is."""
    from pipeline.record import projects, rounds, tasks

    with open_runtime() as runtime, runtime.sessions() as session:
        named = runtime.settings.label_studio.project
        active = projects.active(session, named)
        rows = {row.ls_project_id: row for row in projects.everyone(session)}
        found = []
        for number in sorted({*active, *rows}):
            newest = rounds.newest(session, number)
            found.append(
                {
                    "project": number,
                    "title": rows[number].title if number in rows else "(of the settings)",
                    "state": "runs" if number in active else "paused",
                    "tasks": tasks.count(session, number),
                    "accepted": tasks.count(session, number, status="accepted"),
                    "round": None if newest is None else newest.number,
                }
            )
    if as_json:
        console.print_json(found)
    elif found:
        console.print_table(found)
    else:
        console.stdout.print("No project is connected; run `maskloop projects connect NUMBER`.")


@app.command("connect")
def connect_number(project: Number) -> None:
    """Connect a project, or let a paused one run again; `maskloop connect` has more options."""
    connect(project)


@app.command()
def pause(project: Number) -> None:
    """Let nothing run by itself for a project; clicks in it are still answered."""
    from pipeline.record import projects

    with open_runtime() as runtime, runtime.sessions.begin() as session:
        named = runtime.settings.label_studio.project
        known = projects.find(session, project)
        row = projects.put(session, project, "") if known is None and project == named else known
        (row or projects.get(session, project)).paused = True
    console.stdout.print(
        f"Project {project} is paused; `maskloop projects connect {project}` ends it."
    )


@app.command()
def remove(project: Number) -> None:
    """Remove backend and webhook from a project. Its tasks and masks stay in the record."""
    from pipeline.errors import RequestError
    from pipeline.labelstudio.connect import disconnect
    from pipeline.record import projects

    with open_runtime() as runtime:
        if project == runtime.settings.label_studio.project:
            raise RequestError(
                f"label_studio.project names project {project}; name another there, or pause it."
            )
        with runtime.sessions() as session:
            projects.get(session, project)
        removed = disconnect(runtime.label_studio, runtime.settings, project)
        with runtime.sessions.begin() as session:
            projects.remove(session, project)
    console.stdout.print(f"Project {project} is not served any more.")
    for line in removed:
        console.stdout.print(f"- {line}", markup=False)
