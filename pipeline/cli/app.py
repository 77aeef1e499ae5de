"""The ``maskloop`` command. Each command is a few lines that call the part that does the work.

Imports stand inside the commands: ``maskloop --help`` must not wait for torch.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.errors import MaskloopError
from model.progress import both
from pipeline.cli import console
from pipeline.cli import doctor as cli_doctor
from pipeline.cli import models as cli_models
from pipeline.cli import train as cli_train

if TYPE_CHECKING:
    from pipeline.runtime import Runtime

app = typer.Typer(
    help="An open labelling loop for image segmentation.",
    no_args_is_help=True,
    add_completion=False,
    # Our errors are one sentence; what is left is a bug, and its plain traceback serves best.
    pretty_exceptions_enable=False,
)
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_train.app, name="train")
app.command()(cli_doctor.doctor)

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Project = Annotated[
    int | None, typer.Option("--project", help="Label Studio project; default: the settings'.")
]
Background = Annotated[
    bool, typer.Option("--background", help="Leave the work to a worker and return at once.")
]


class FirstPrompt(StrEnum):
    """Kinds of prompts that ``eval`` can start from; those of ``model.evaluation.simulation``, and
    all."""

    CLICK = "click"
    BOX = "box"
    POLYGON = "polygon"
    SCRIBBLE = "scribble"
    MASK = "mask"
    ALL = "all"


class MaskKind(StrEnum):
    """Kinds of regions that masks may be; those of ``pipeline.labelstudio.template``."""

    BRUSH = "brush"
    POLYGON = "polygon"
    VECTOR = "vector"
    BITMASK = "bitmask"


def main() -> None:
    """Entry point: every error of ours is one sentence on stderr and exit code 1."""
    console.log_to_stderr()
    try:
        app()
    except MaskloopError as error:
        console.stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def up() -> None:
    """Start everything on this machine, and stop it with Ctrl-C. State: MASKLOOP_HOME."""
    from pipeline.stack.up import run_up

    run_up(_home(), console.stdout)


@app.command()
def down() -> None:
    """Stop what `maskloop up` started."""
    from pipeline.stack.up import run_down

    run_down(_home(), console.stdout)


@app.command()
def status(as_json: Json = False) -> None:
    """Tasks, images, accepted masks, the serving version, the last jobs and the queues."""
    from pipeline.status import status as read

    runtime = _runtime()
    with runtime.sessions.begin() as session:
        report = read(session, runtime.settings, runtime.enqueuer)
    if as_json:
        console.print_json(report)
        return
    jobs, decision = report.pop("jobs"), report.pop("last_decision")
    flat = {
        name.replace("_", " "): ", ".join(f"{value} {key}" for key, value in values.items())
        if isinstance(values, dict)
        else values
        for name, values in report.items()
    }
    console.print_pairs(flat | {"last decision": decision and decision["reason"]})
    console.print_table(jobs)


@app.command()
def encode(project: Project = None, background: Background = False, as_json: Json = False) -> None:
    """Encode every image of a project, so that the first click on each is answered at once."""
    from pipeline.queue import ENCODE_PROJECT

    runtime = _runtime()
    project_id = runtime.project(project)
    if background:
        _send(runtime, ENCODE_PROJECT, project_id, as_json=as_json)
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


@app.command()
def propose(
    project: Project = None,
    task: Annotated[
        list[int] | None, typer.Option("--task", help="Only this task; may be given repeatedly.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many tasks.")] = None,
    label: Annotated[
        str | None, typer.Option(help="Of the masks; default: the labelling config's first.")
    ] = None,
    grid: Annotated[
        int, typer.Option(min=1, max=64, help="About so many clicks squared on each image.")
    ] = 16,
    again: Annotated[
        bool, typer.Option("--again", help="Also where the serving model has proposed already.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Have the model outline every object of the tasks nobody annotated, for people to accept.

    Each task gets one prediction in Label Studio; an earlier one of this command goes.
    """
    from model.inference.proposals import ProposalConfig
    from pipeline.precompute.propose import propose_project
    from pipeline.record.jobs import job

    runtime = _runtime()
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


@app.command()
def finetune(background: Background = False, as_json: Json = False) -> None:
    """Fine-tune on the accepted masks now; the gate decides whether the result may serve."""
    from pipeline.queue import FINETUNE

    runtime = _runtime()
    if background:
        _send(runtime, FINETUNE, as_json=as_json)
        return
    from pipeline.training.finetune import run_finetune

    with console.progress_bar("Fine-tuning") as bar:
        result = run_finetune(
            runtime.sessions, runtime.store, runtime.embeddings, runtime.settings, bar
        )
    console.print_json(result) if as_json else console.stdout.print(result["reason"], markup=False)


@app.command()
def select(
    project: Project = None,
    size: Annotated[int | None, typer.Option(min=1, help="Tasks in the round.")] = None,
    background: Background = False,
    as_json: Json = False,
) -> None:
    """Choose what to label next, and hand it to Label Studio in that order."""
    from pipeline.queue import SELECT

    runtime = _runtime()
    project_id = runtime.project(project)
    if background:
        _send(runtime, SELECT, project_id, *([size] if size else []), as_json=as_json)
        return
    from pipeline.selection.select import select_round

    with console.progress_bar("Selecting") as bar:
        result = select_round(runtime, project_id, size=size, progress=bar)
    console.print_json(result) if as_json else console.print_pairs(result)


@app.command()
def mirror(background: Background = False, as_json: Json = False) -> None:
    """Bring FiftyOne's dataset up to date with the record."""
    from pipeline.queue import MIRROR

    runtime = _runtime()
    if background:
        _send(runtime, MIRROR, as_json=as_json)
        return
    from pipeline.mirror.dataset import mirror as run

    with console.progress_bar("Mirroring") as bar:
        report = asdict(run(runtime.sessions, runtime.store, runtime.settings, bar))
    console.print_json(report) if as_json else console.print_pairs(report)


@app.command()
def connect(
    project: Project = None,
    template: Annotated[
        bool, typer.Option("--template", help="Replace the labelling config by maskloop's own.")
    ] = False,
    label: Annotated[
        list[str] | None, typer.Option(help="With --template: a label; again for each.")
    ] = None,
    output: Annotated[
        MaskKind, typer.Option(help="With --template: what the masks are.")
    ] = MaskKind.BRUSH,
    text: Annotated[
        bool, typer.Option("--text", help="With --template: a box to name the object in words.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Attach the backend and its webhooks to a Label Studio project, or repair them."""
    from pipeline.labelstudio.connect import Template
    from pipeline.labelstudio.connect import connect as attach

    wanted = Template(tuple(label or ()), output.value, text)
    if wanted != Template() and not template:
        raise typer.BadParameter("--label, --output and --text go with --template.")
    runtime = _runtime()
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


@app.command(name="eval")
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Holds manifest.jsonl, images/ and masks/.")],
    checkpoint: Annotated[
        str | None,
        typer.Option(help="A file, or the name of a model version; default: the base."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many.")] = None,
    clicks: Annotated[int, typer.Option(min=5, max=20, help="Simulated clicks each.")] = 20,
    split: Annotated[str | None, typer.Option(help="Only this split of the manifest.")] = None,
    prompt: Annotated[
        FirstPrompt, typer.Option(help="First prompt on each object; all: measure each kind.")
    ] = FirstPrompt.CLICK,
    as_json: Json = False,
) -> None:
    """Measure a checkpoint with simulated clicks: NoC@85, NoC@90 and mean IoU by clicks.

    One target for each image, its largest instance; each click lies deepest inside the larger
    error; up to 20 clicks; NoC is the mean number of clicks to reach an IoU. A first prompt of
    another kind counts as the first click.
    """
    from pipeline.training.evaluate import evaluate_checkpoint

    with console.progress_bar("Evaluating") as bar:
        report = evaluate_checkpoint(
            _runtime(),
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


def _print_problems(problems: dict[int, str]) -> None:
    for task, problem in problems.items():
        console.stderr.print(f"Task {task}: {problem}", markup=False, soft_wrap=True)


def _send(runtime: Runtime, name: str, *args: int, as_json: bool) -> None:
    message = runtime.enqueuer.send(name, *args)
    if as_json:
        console.print_json({"sent": name, "message": message})
    else:
        console.stdout.print("A worker does it now; `maskloop status` shows how far it is.")


def _home() -> Path:
    from pipeline.settings import HOME_VARIABLE

    return Path(os.environ.get(HOME_VARIABLE, ".maskloop"))


def _runtime() -> Runtime:
    from pipeline.runtime import Runtime
    from pipeline.settings import load_settings

    return Runtime(load_settings())
