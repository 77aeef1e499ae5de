"""The output of the commands: results on stdout, for people or as JSON, and the rest on stderr."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from model.progress import Progress

stdout = Console()
stderr = Console(stderr=True)


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Show warnings above the progress bar, one line each."""
    handler = RichHandler(level, console=stderr, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler])


def print_json(value: Any) -> None:
    """Print one JSON document; times become ISO strings."""
    text = json.dumps(value, indent=2, default=str, allow_nan=False)
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)


def print_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values in two columns; a name whose value is None is left out."""
    table = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value is not None:
            table.add_row(f"[bold]{name}[/bold]", _cell(value))
    stdout.print(table, highlight=False)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print one line for each row, under the names of the first row's values."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for name in rows[0]:
        table.add_column(name.replace("_", " "), header_style="bold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    stdout.print(table, highlight=False)


@contextmanager
def progress_bar(title: str, *, in_bytes: bool = False) -> Iterator[Progress]:
    """Show a bar on stderr; yields the progress that moves it."""
    count = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), count)
    with Bar(*columns, TimeRemainingColumn(), console=stderr) as bar:
        task = bar.add_task(title, total=None, visible=False)  # until there is something to show

        def report(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        yield report


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return escape(str(value))
