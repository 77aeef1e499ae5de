"""The commands that start a step of the loop now, instead of waiting until it is due."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from model.progress import both
from pipeline.cli import console
from pipeline.cli.options import Background, Json, Project, open_runtime, send


def encode(project: Project = None, background: Background = False, as_json: Json = False) -> None:
    """Encode every image of a project, so that the first click on each is answered at once."""
    from pipeline.queue import ENCODE_PROJECT

    with open_runtime() as runtime:
        project_id = runtime.project(project)
        if background:
            send(runtime, ENCODE_PROJECT, project_id, True, as_json=as_json)
            return
        from pipeline.precompute.encode import encode_project
        from pipeline.record.jobs import job

        with job(runtime.sessions, "encode") as handle, console.progress_bar("Encoding") as bar:
            report = encode_project(runtime, project_id, both(handle.progress, bar))
            handle.message = f"{report.encoded} of {report.tasks} images are encoded."
            handle.result = asdict(report)
    _print_problems(report.problems)
    console.print_json(asdict(report)) if as_json else console.stdout.print(handle.message)
    if report.problems:
        raise typer.Exit(1)


def propose(
    project: Project = None,
    task: Annotated[
        list[int] | None, typer.Option("--task", help="Only this task; may be given repeatedly.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many tasks.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Label of the masks; default: the first one.")
    ] = None,
    grid: Annotated[
        int,
        typer.Option(min=1, max=64, help="Clicks in each row and each column of the image."),
    ] = 16,
    again: Annotated[
        bool, typer.Option("--again", help="Also tasks with proposals of the serving model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Outline every object of the tasks without an annotation, for annotators to accept.

    Each task gets one prediction in Label Studio, which replaces an earlier one of this command.
    """
    from model.inference.proposals import ProposalConfig
    from pipeline.precompute.propose import propose_project
    from pipeline.record.jobs import job

    with open_runtime() as runtime:
        project_id = runtime.project(project)
        with (
            job(runtime.sessions, "propose", exclusive=True) as handle,
            console.progress_bar("Proposing") as bar,
        ):
            report = propose_project(
                runtime,
                project_id,
                only=task or (),
                limit=limit,
                label=label,
                again=again,
                config=ProposalConfig(grid=grid),
                progress=both(handle.progress, bar),
            )
            handle.message = (
                f"{report.regions} masks are proposed on {report.proposed} of {report.tasks} tasks "
                f"without an annotation; {report.left} were done before."
            )
            handle.result = asdict(report)
    _print_problems(report.problems)
    console.print_json(asdict(report)) if as_json else console.stdout.print(handle.message)
    for line in report.advice:
        console.stderr.print(line, markup=False, soft_wrap=True)
    if report.problems:
        raise typer.Exit(1)


def finetune(background: Background = False, as_json: Json = False) -> None:
    """Fine-tune on the accepted masks now; the gate decides whether the result may serve."""
    from pipeline.queue import FINETUNE

    with open_runtime() as runtime:
        if background:
            send(runtime, FINETUNE, True, as_json=as_json)
            return
        from pipeline.training.finetune import run_finetune

        with console.progress_bar("Fine-tuning") as bar:
            result = run_finetune(runtime, bar)
    console.print_json(result) if as_json else console.stdout.print(result["reason"], markup=False)


def select(
    project: Project = None,
    size: Annotated[int | None, typer.Option(min=1, help="Tasks in the round.")] = None,
    background: Background = False,
    as_json: Json = False,
) -> None:
    """Choose the tasks to label next, and write their order to Label Studio."""
    from pipeline.queue import SELECT

    with open_runtime() as runtime:
        project_id = runtime.project(project)
        if background:
            send(runtime, SELECT, project_id, *([size] if size else []), as_json=as_json)
            return
        from pipeline.selection.select import select_round

        with console.progress_bar("Selecting") as bar:
            result = select_round(runtime, project_id, size=size, progress=bar)
    console.print_json(result) if as_json else console.print_pairs(result)


def mirror(background: Background = False, as_json: Json = False) -> None:
    """Bring FiftyOne's dataset up to date with the record."""
    from pipeline.queue import MIRROR

    with open_runtime() as runtime:
        if background:
            send(runtime, MIRROR, as_json=as_json)
            return
        from pipeline.mirror.dataset import mirror as run

        with console.progress_bar("Mirroring") as bar:
            report = asdict(run(runtime, bar))
    console.print_json(report) if as_json else console.print_pairs(report)


def _print_problems(problems: dict[int, str]) -> None:
    for task, problem in problems.items():
        console.stderr.print(f"Task {task}: {problem}", markup=False, soft_wrap=True)
