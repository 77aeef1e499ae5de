"""The ``maskloop`` command. Each command is a few lines that call the part that does the work.

Imports are inside the commands, so that ``maskloop --help`` does not wait for torch.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from model.errors import MaskloopError
from pipeline.cli import (
    console,
    jobs,
    keeping,
    measure,
    models,
    projects,
    train,
    work,
)
from pipeline.cli.doctor import doctor
from pipeline.cli.options import Json, open_runtime

app = typer.Typer(
    help="An open labelling loop for image segmentation.",
    no_args_is_help=True,
    add_completion=False,
    # Our own errors are printed as one sentence. Any other is a bug, and needs a plain traceback.
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point; every error of ours gives one sentence on stderr and exit code 1."""
    console.log_to_stderr()
    try:
        app()
    except MaskloopError as error:
        console.stderr.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def up() -> None:
    """Start everything on this machine; Ctrl-C stops it. MASKLOOP_HOME names its folder."""
    from pipeline.stack.up import run_up

    run_up(_home(), console.stdout)


@app.command()
def down() -> None:
    """Stop what `maskloop up` started."""
    from pipeline.stack.up import run_down

    run_down(_home(), console.stdout)


@app.command()
def upgrade() -> None:
    """Bring the database to the newest schema, or make it if there is none.

    `maskloop up`, the workers and the backend do this by themselves when they start.
    """
    from pipeline.record import schema
    from pipeline.settings import load_settings

    settings = load_settings()
    schema.upgrade(settings)
    address = schema.read_schema(settings).address
    console.stdout.print(
        f"{address} has the newest schema.", markup=False, highlight=False, soft_wrap=True
    )


@app.command()
def status(as_json: Json = False) -> None:
    """Show tasks, images, accepted masks, the serving version, the last jobs and the queues."""
    from pipeline.status import status as read

    with open_runtime() as runtime:
        report = read(runtime)
    if as_json:
        console.print_json(report)
        return
    last_jobs, decision = report.pop("jobs"), report.pop("last_decision")
    silent = report.pop("silent")
    flat = {
        name.replace("_", " "): ", ".join(f"{value} {key}" for key, value in values.items())
        if isinstance(values, dict)
        else values
        for name, values in report.items()
    }
    console.print_pairs(flat | {"last decision": decision and decision["reason"]})
    console.print_table(last_jobs)
    for sentence in silent:
        console.stdout.print(sentence, style="yellow", markup=False, highlight=False)


def _home() -> Path:
    from pipeline.settings import HOME_VARIABLE

    return Path(os.environ.get(HOME_VARIABLE, ".maskloop"))


# In the order of `maskloop --help`.
for command in (
    work.encode,
    work.propose,
    work.finetune,
    work.select,
    work.mirror,
    projects.connect,
    doctor,
    keeping.backup,
    keeping.restore,
    keeping.verify,
    keeping.prune,
):
    app.command()(command)
app.command(name="eval")(measure.evaluate)
app.add_typer(models.app, name="models")
app.add_typer(jobs.app, name="jobs")
app.add_typer(projects.app, name="projects")
app.add_typer(train.app, name="train")
