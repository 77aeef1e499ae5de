"""``maskloop jobs``: look at long jobs, cancel one, and let what failed be tried again."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import console
from pipeline.cli.options import Json, Project, open_runtime

app = typer.Typer(help="Long jobs, and what is not tried any more.", no_args_is_help=True)

SHOWN = 20


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="How many of each kind of row.")] = SHOWN,
    as_json: Json = False,
) -> None:
    """List the newest jobs, and the events and images that nothing tries again by itself."""
    from pipeline.record import jobs, retries

    with open_runtime() as runtime, runtime.sessions() as session:
        rows = [
            {
                "job": row.id,
                "kind": row.kind,
                "state": jobs.outcome(row) if row.status != "cancelled" else "cancelled",
                "attempt": row.attempt,
                "done": row.done,
                "total": row.total,
                "started": row.started_at.isoformat(timespec="seconds"),
                "message": row.message,
            }
            for row in jobs.newest(session, limit)
        ]
        events = [
            {"event": row.id, "action": row.action, "attempts": row.attempts, "why": row.problem}
            for row in retries.quarantined_events(session, limit)
        ]
        images = [
            {"task": row.ls_task_id, "attempts": row.attempts, "why": row.problem}
            for row in retries.quarantined_tasks(session, limit)
        ]
    if as_json:
        console.print_json({"jobs": rows, "events": events, "images": images})
        return
    for title, found in (("Jobs", rows), ("Events given up", events), ("Images given up", images)):
        if found:
            console.stdout.print(f"[bold]{title}[/bold]")
            console.print_table(found)
    if not (rows or events or images):
        console.stdout.print("No job has run yet.")


@app.command()
def cancel(
    job: Annotated[int, typer.Argument(help="Its number, from `maskloop jobs list`.")],
) -> None:
    """Cancel a job that runs: it ends at its next step, and changes nothing."""
    from pipeline.record import jobs

    with open_runtime() as runtime, runtime.sessions.begin() as session:
        kind = jobs.cancel(session, job).kind
    console.stdout.print(f"The {kind} job {job} is cancelled; it ends at its next step.")


@app.command()
def retry(
    what: Annotated[str, typer.Argument(help="The number of a job, or: events, images.")],
    project: Project = None,
) -> None:
    """Run a job again, or let all given-up events or images be tried again."""
    from pipeline.errors import RequestError
    from pipeline.queue import ENCODE_PROJECT, FINETUNE, PROMOTE, RECONCILE, SELECT
    from pipeline.record import jobs, retries
    from pipeline.record.tables import Event, Task

    with open_runtime() as runtime:
        if what in ("events", "images"):
            with runtime.sessions.begin() as session:
                retries.release(session, Event if what == "events" else Task)
            if what == "events":
                runtime.enqueuer.send(RECONCILE)
            else:
                runtime.enqueuer.send(ENCODE_PROJECT, runtime.project(project), True)
            console.stdout.print(f"The {what} are tried again now.")
            return
        if not what.isdecimal():
            raise RequestError(f"{what!r} is neither the number of a job nor events or images.")
        with runtime.sessions() as session:
            row = jobs.get(session, int(what))
        result = row.result or {}
        match row.kind:
            case "finetune":
                message = runtime.enqueuer.send(FINETUNE, True)
            case "select":
                number = result.get("project") or runtime.project(project)
                message = runtime.enqueuer.send(SELECT, int(number))
            case "promote" if "version" in result:
                message = runtime.enqueuer.send(PROMOTE, str(result["version"]))
            case "encode":
                message = runtime.enqueuer.send(ENCODE_PROJECT, runtime.project(project), True)
            case _:
                raise RequestError(
                    f"A {row.kind} job cannot be sent again; run `maskloop {row.kind}`."
                )
    console.stdout.print(f"The {row.kind} job is sent again (message {message}).")
