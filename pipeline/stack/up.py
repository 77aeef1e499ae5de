"""``maskloop up`` and ``maskloop down``: the whole loop on one machine, in one folder.

``run_up`` shows the order of the steps: prepare, start, make the demo, encode, watch, stop.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipeline.errors import ServiceError
from pipeline.labelstudio.connect import Template, connect
from pipeline.queue import MIRROR, SELECT_IF_DUE
from pipeline.record import projects
from pipeline.runtime import Runtime
from pipeline.settings import SETTINGS_FILE, Settings
from pipeline.stack import foundations, services
from pipeline.stack.demo import TITLE, make_demo
from pipeline.stack.home import lock_holder, only_one, prepare_home, remember_project
from pipeline.stack.processes import (
    MARK_VARIABLE,
    Processes,
    leftovers,
    require_free_ports,
    stop_all,
)
from pipeline.stack.service import Service
from pipeline.stack.supervisor import Supervisor

WATCH_SECONDS = 0.5
DOWN_SECONDS = 90
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_up(home: Path, console: Console) -> None:
    """Start everything, keep it running until interrupted, and stop everything.

    Returns after an interrupt (SIGINT, SIGTERM, SIGHUP). Call it in the main thread.

    Raises:
        MaskloopError: a sentence that says why it did not start, or why it ended.
    """
    settings = prepare_home(home)
    with only_one(settings.home), _interruptible():
        processes = Processes(settings.home)
        try:
            _start(settings, processes, console)
            with Supervisor(processes, partial(_tell, console)) as supervisor:
                while True:
                    supervisor.tend()
                    time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            console.print("Stopping; nothing is lost.")
        finally:
            for number in SIGNALS:  # a second Ctrl-C must not interrupt the stop
                signal.signal(number, signal.SIG_IGN)
            with console.status("Stopping the services"):
                processes.stop()
            console.print("Everything is stopped.")


def run_down(home: Path, console: Console) -> None:
    """Stop everything that ``maskloop up`` started on this home, even if that was killed.

    Raises:
        ServiceError: ``maskloop up`` does not stop, or belongs to another account.
    """
    home = home.resolve()
    holder = lock_holder(home)
    left = leftovers(home)
    if holder is None and not left:
        console.print(f"Nothing of maskloop runs on {home}; `maskloop up` starts it.")
        return
    with console.status("Stopping the services"):
        if holder is not None:
            _ask_to_stop(holder, home)
        stop_all(leftovers(home))
    console.print("Everything is stopped.")


def _start(settings: Settings, processes: Processes, console: Console) -> None:
    stop_all(leftovers(settings.home))  # from a `maskloop up` that was killed
    bottom = [
        foundations.redis_service(settings),
        foundations.mongod_service(settings),
        foundations.label_studio_service(settings),
    ]
    ours = [services.backend_service(settings), services.fiftyone_service(settings)]
    require_free_ports(*bottom, *ours)  # all are checked before the first one starts

    for service in bottom:
        processes.start(service)
    newest = console.status("Bringing the database to the newest schema")
    with newest, Runtime(settings, migrate=True) as runtime:
        runtime.registry.ensure_base()
    _wait(processes, bottom[:2], console)
    for service in ours:
        processes.start(service)
    first = "" if settings.label_studio.project else " (the first start takes about a minute)"
    _wait(processes, [bottom[2], *ours], console, first)

    settings = _project(settings, console)
    if settings.label_studio.project is not None:
        _encode(settings, console)
    # The workers start last: the schedule reads the project when it starts, and until then the
    # encoding has all cores.
    workers = [
        services.worker_service(settings),
        services.trainer_service(settings),
        services.beat_service(settings),
    ]
    for service in workers:
        processes.start(service)
    _wait(processes, workers, console)
    with Runtime(settings) as runtime:
        runtime.enqueuer.send(SELECT_IF_DUE)  # the schedule's first look is minutes away
        runtime.enqueuer.send(MIRROR)
    processes.check()
    _show_addresses(settings, console)


def _wait(processes: Processes, waited: list[Service], console: Console, remark: str = "") -> None:
    names = [service.name for service in waited]

    def tell(name: str) -> None:
        console.print(f"  {name} is ready", highlight=False)

    with console.status(f"Starting {', '.join(names)}{remark}"):
        lost = processes.wait(*names, listener=tell)
    for name in lost:
        _tell(
            console,
            f"{name} did not start; labelling goes on without it, and it is tried again. Its log "
            f"is {processes.log(name)}.",
        )


def _tell(console: Console, sentence: str) -> None:
    console.print(sentence, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _project(settings: Settings, console: Console) -> Settings:
    """The settings with a project to work on: the one they name, else the demo, made now."""
    with Runtime(settings) as runtime:
        client, project = runtime.label_studio, settings.label_studio.project
        template = Template() if project is None else None
        if project is None:
            with _bar(console) as bar:
                task = bar.add_task(f"Making the project {TITLE!r}", total=None)
                project = make_demo(
                    client, lambda done, total: bar.update(task, completed=done, total=total)
                )
            # Written only when the demo is complete, so that the next start finishes it otherwise.
            settings = remember_project(settings.home, project)
        elif client.project(project) is None:
            console.print(
                f"Project {project} is not in Label Studio any more: write another number to "
                f"label_studio.project in {settings.home / SETTINGS_FILE}, or remove that line "
                "to have the demo made again.",
                style="yellow",
            )
            return settings.model_copy(
                update={"label_studio": settings.label_studio.model_copy(update={"project": None})}
            )
        report = connect(client, settings, project, template)
        with runtime.sessions.begin() as session:
            projects.put(session, project, report.project_title)
    return settings


def _encode(settings: Settings, console: Console) -> None:
    """Encode the remaining images in a separate process, which releases its memory at the end."""
    environment = {**os.environ, MARK_VARIABLE: str(settings.home)}
    command = [sys.executable, "-c", "from pipeline.cli.app import main; main()", "encode"]
    if subprocess.run(command, env=environment, check=False).returncode != 0:
        # One bad image must not prevent the start.
        console.print(
            "Not every image could be encoded, for the reason above; "
            "`maskloop encode` tries again.",
            style="yellow",
        )


def _show_addresses(settings: Settings, console: Console) -> None:
    own, backend, fiftyone = settings.label_studio, settings.backend, settings.fiftyone
    viewer, password = settings.fiftyone_login
    page = f"{own.url}/projects/{own.project}" if own.project else own.url
    lines = [
        f"  Label Studio  {page}",
        f"                login {own.user}, password {own.password.get_secret_value()}",
        f"  FiftyOne      http://{fiftyone.host}:{fiftyone.port}",
        f"                login {viewer}, password {password}",
        f"  Backend       {backend.url}",
        f"                the same login; every setting: {settings.home / SETTINGS_FILE}",
    ]
    console.print("\n[bold]maskloop is up.[/bold] Ctrl-C stops it; nothing is lost.")
    # Not wrapped, to keep addresses whole, and not read as markup, to keep passwords unchanged.
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, console=console)


def _ask_to_stop(holder: int, home: Path) -> None:
    try:
        os.kill(holder, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise ServiceError(
            f"maskloop on {home} belongs to another account (process {holder}); stop it there."
        ) from error
    deadline = time.monotonic() + DOWN_SECONDS
    while lock_holder(home) == holder:
        if time.monotonic() > deadline:
            raise ServiceError(
                f"maskloop on {home} (process {holder}) does not stop; read the logs in "
                f"{home / 'logs'}, then end that process yourself."
            )
        time.sleep(WATCH_SECONDS)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into KeyboardInterrupt, as SIGINT is, until the block ends."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
