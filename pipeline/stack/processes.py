"""Processes that are started together, watched, and stopped with all their children.

Every process gets its own session, so that Ctrl-C in the terminal reaches only ``maskloop up``,
which stops them in the right order. Every process also has a mark in its environment. The mark
finds grandchildren that left their parent, and processes that a killed ``maskloop up`` left
running. It never matches a process of anyone else.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from pipeline.errors import ServiceError
from pipeline.stack.service import Service

MARK_VARIABLE = "MASKLOOP_STACK"
POLL_SECONDS = 0.2
KILL_SECONDS = 5.0  # between asking remaining processes to end and killing them
LOG_TAIL_BYTES = 4000
MOST_LOG_BYTES = 20_000_000  # of each service, twice: the present log and the one before it

Listener = Callable[[str], None]  # called with a service's name


class Processes:
    """A group of running services. As a context manager it stops them all at the end."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._running: dict[str, tuple[Service, subprocess.Popen[bytes]]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, service: Service) -> None:
        """Start a service without waiting for it; its output goes to its log.

        It may have run before. What is left of it is killed first.

        Raises:
            ServiceError: its port is taken, or its program cannot be run.
        """
        if service.name in self._running:
            self.kill(service.name)
        require_free_ports(service)
        kept = os.environ if service.inherit else _bare_environment()
        environment = {**kept, **service.environment, MARK_VARIABLE: str(self._home)}
        try:
            with self.log(service.name).open("ab") as log:
                process = subprocess.Popen(
                    list(service.command),
                    cwd=self._home,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise ServiceError(
                f"{service.name} cannot be started ({error.strerror}: {service.command[0]}); "
                "run `make install`."
            ) from error
        self._running[service.name] = (service, process)

    def services(self) -> list[Service]:
        """The services that were started, in the order of their first start."""
        return [service for service, _process in self._running.values()]

    def wait(self, *names: str, listener: Listener | None = None) -> list[str]:
        """Return when these services are ready.

        Returns:
            The names of optional services that are not ready and never became so.

        Raises:
            ServiceError: one of the others ended, or was not ready after its ``start_seconds``.
        """
        begin = time.monotonic()
        waiting, lost = list(names), []
        while waiting:
            self.check()
            for name in list(waiting):
                service = self._running[name][0]
                late = time.monotonic() - begin > service.start_seconds
                if service.ready():
                    waiting.remove(name)
                    if listener:
                        listener(name)
                elif service.optional and (late or self.death(name) is not None):
                    waiting.remove(name)
                    lost.append(name)
                elif late:
                    raise ServiceError(
                        f"{name} did not become ready in {service.start_seconds:.0f} s; "
                        f"read {self.log(name)} and start again."
                    )
            if waiting:
                time.sleep(POLL_SECONDS)
        return lost

    def check(self) -> None:
        """Raise ServiceError when any of the services, but an optional one, has ended."""
        for name, (service, _process) in self._running.items():
            if not service.optional and (death := self.death(name)) is not None:
                raise ServiceError(
                    f"{name} stopped ({death}); "
                    f"read {self.log(name)}, then start again: nothing that was saved is lost."
                )

    def death(self, name: str) -> str | None:
        """How a service ended, with its last words; None: it runs."""
        code = self._running[name][1].poll()
        if code is None:
            return None
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        return f"{how}{_last_line(self.log(name))}"

    def rotate_logs(self) -> None:
        """Move the log of each service aside once it is large; the one before it is dropped.

        A service keeps its file open and appends to it, so the content is copied and the file made
        empty. A line that is written in between is lost.
        """
        for name in self._running:
            log = self.log(name)
            with suppress(OSError):
                if log.stat().st_size > MOST_LOG_BYTES:
                    shutil.copyfile(log, log.with_suffix(".log.1"))
                    os.truncate(log, 0)

    def kill(self, name: str) -> None:
        """Kill a service and its children at once, even if they are stopped by a signal."""
        process = self._running[name][1]
        members = _session_members(process.pid)
        for member in members:
            with suppress(psutil.Error):
                member.kill()
        psutil.wait_procs(members, timeout=KILL_SECONDS)
        process.wait()

    def log(self, name: str) -> Path:
        """The log file with a service's output."""
        return self._home / "logs" / f"{name.lower().replace(' ', '-')}.log"

    def stop(self) -> None:
        """Stop all services with their children, the foundations last; safe to call twice."""
        for foundation in (False, True):
            group = [pair for pair in self._running.values() if pair[0].foundation is foundation]
            for _service, process in group:
                with suppress(ProcessLookupError):
                    process.terminate()
            begin = time.monotonic()
            for service, process in group:
                left = begin + service.stop_seconds - time.monotonic()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, left))
            stop_all([member for _, process in group for member in _session_members(process.pid)])
            for _service, process in group:
                process.wait()
        self._running.clear()
        stop_all(leftovers(self._home))


def leftovers(home: Path) -> list[psutil.Process]:
    """Running processes with this home's mark, which a ``maskloop up`` started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK_VARIABLE) == str(home):
                found.append(process)
    return found


def stop_all(processes: Sequence[psutil.Process]) -> None:
    """Ask these processes to end, then kill those that do not."""
    for process in processes:
        with suppress(psutil.Error):
            process.terminate()
    _gone, alive = psutil.wait_procs(processes, timeout=KILL_SECONDS)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=KILL_SECONDS)


def require_free_ports(*services: Service) -> None:
    """Raise ServiceError when programs already listen on ports of these services; it names all."""
    conflicts = [fault for service in services if (fault := _conflict(service))]
    if conflicts:
        raise ServiceError(
            f"{' '.join(conflicts)} Stop what uses them, change those settings, or set port_offset "
            "(such as 100) to move all ports of this maskloop at once."
        )


def _conflict(service: Service) -> str:
    """A sentence that says who listens on a service's port; empty if the port is free."""
    if service.port is None:
        return ""
    with socket.socket() as probe:
        # Servers set this too. With it, a port whose last connections are closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", service.port))
            return ""
        except OSError:
            holder = _listener_on(service.port)
    return (
        f"Port {service.port}, which {service.name} needs, is already in use{holder} "
        f"({service.port_setting})."
    )


def _listener_on(port: int) -> str:
    with suppress(psutil.Error):  # processes of another account cannot be inspected
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            if listens and connection.pid is not None:
                return f" by {psutil.Process(connection.pid).name()} ({connection.pid})"
    return ""


def _session_members(session: int) -> list[psutil.Process]:
    """Running processes of a session; its number is not used again while one of them runs."""
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def _bare_environment() -> dict[str, str]:
    names = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
    return {name: os.environ[name] for name in names if name in os.environ}


def _last_line(log: Path) -> str:
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
        if lines:
            return f", its last words: {lines[-1].strip()[:200]}"
    return ""
