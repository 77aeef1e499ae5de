"""Options that several commands share, and how a command opens the parts of the loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import console

if TYPE_CHECKING:
    from pipeline.runtime import Runtime

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]
Project = Annotated[
    int | None, typer.Option("--project", help="Label Studio project; default: from the settings.")
]
Background = Annotated[
    bool, typer.Option("--background", help="Leave the work to a worker and return at once.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first so many images.")]
Split = Annotated[str | None, typer.Option(help="Use only this split of the manifest.")]


@contextmanager
def open_runtime() -> Iterator[Runtime]:
    """Open the parts of the loop for one command, and close them at its end.

    Commands never migrate the database (``pipeline.record.schema``).
    """
    from pipeline.runtime import Runtime
    from pipeline.settings import load_settings

    with Runtime(load_settings()) as runtime:
        yield runtime


def send(runtime: Runtime, name: str, *args: int | str | bool, as_json: bool) -> None:
    """Leave the work to a worker, and say so."""
    message = runtime.enqueuer.send(name, *args)
    if as_json:
        console.print_json({"sent": name, "message": message})
    else:
        console.stdout.print("A worker does this now; `maskloop status` shows its progress.")
