"""``maskloop doctor``: shows problems and their remedies."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from pipeline.cli import console
from pipeline.cli.options import Json, Project

MARKS = {
    "ok": "[green]ok[/green]",
    "advice": "[yellow]advice[/yellow]",
    "problem": "[bold red]PROBLEM[/bold red]",
    "skipped": "[dim]skipped[/dim]",
}


def doctor(
    project: Project = None,
    check: Annotated[
        list[str] | None,
        typer.Option(help="Only this check, and those that it needs; may be given again."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Find out why clicks do nothing; each problem is named with its remedy. Nothing is changed.

    The exit code is 1 when there is a problem.
    """
    from pipeline.doctor.checks import IN_THE_BROWSER, chosen, diagnose
    from pipeline.settings import load_settings

    with console.stderr.status("Looking"):
        findings = diagnose(load_settings, project, chosen(check))
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        found = [asdict(finding) for finding in findings]
        report = {"problems": problems, "findings": found, "in_the_browser": IN_THE_BROWSER}
        console.print_json(report)
    else:
        table = Table.grid(padding=(0, 2))
        for finding in findings:
            table.add_row(MARKS[finding.state], finding.check, escape(finding.text))
        console.stdout.print(table, highlight=False)
        count = "1 problem" if problems == 1 else f"{problems} problems"
        says = f"{count}; mend the first one first." if problems else "Nothing is wrong here."
        console.stdout.print(f"\n{says} These things only each annotator's browser knows:")
        for line in IN_THE_BROWSER:
            console.stdout.print(f"- {line}", markup=False, highlight=False)
    if problems:
        raise typer.Exit(1)
