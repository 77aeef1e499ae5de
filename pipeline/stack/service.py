"""What a service of the stack is: how it is started, and how to see that it is ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from pipeline.errors import SettingsError
from pipeline.settings import Settings

READY_SECONDS = 1.0  # time limit of one check while a service starts
ALIVE_SECONDS = 5.0  # time limit of one check of a running service, which may be busy


@dataclass(frozen=True)
class Service:
    """How to start one service, and how to check that it works.

    Attributes:
        ready: called repeatedly until it returns True: the service can be used. It must return
            quickly.
        alive: called every few seconds while it runs; None: ``ready`` is called. It must return in
            ``ALIVE_SECONDS`` or so.
        core: nobody can label without it.
        optional: the stack starts even if this service does not.
        needs: names of services without which it cannot answer.
        foundation: others need it while they stop, so it is stopped after them.
        inherit: False: it gets only the variables that every program needs.
        hung_seconds: without an answer, after which it counts as hung.
    """

    name: str
    command: Sequence[str]
    ready: Callable[[], bool]
    alive: Callable[[], bool] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    inherit: bool = True
    core: bool = False
    optional: bool = False
    needs: tuple[str, ...] = ()
    foundation: bool = False
    start_seconds: float = 60
    stop_seconds: float = 10
    hung_seconds: float = 30
    port: int | None = None
    port_setting: str = ""

    def is_alive(self) -> bool:
        """Whether it answers now."""
        return (self.alive or self.ready)()


def answers(
    url: str, auth: tuple[str, str] | None = None, *, seconds: float = READY_SECONDS
) -> Callable[[], bool]:
    """A check whether ``url`` answers without an error; ``auth`` is a user and a password."""

    def ready() -> bool:
        try:
            # No proxy from the environment: the address is this machine's.
            answer = httpx.get(url, auth=auth, timeout=seconds, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code < httpx.codes.BAD_REQUEST  # a redirect is an answer too

    return ready


def own_port(address: str, setting: str) -> int:
    """The port of an address that must be on this machine; ``setting`` is where it is written.

    Raises:
        SettingsError: it is not an address of this machine with a port.
    """
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host not in ("127.0.0.1", "localhost") or port is None:
        raise SettingsError(
            f"`maskloop up` starts every service on this machine, but {setting} is not an address "
            "like 127.0.0.1:PORT; correct it, or start the services yourself (see "
            "docker-compose.yml)."
        )
    return port


def folder_of(settings: Settings, name: str) -> Path:
    """The folder ``name`` in the home folder, made if it is missing."""
    folder = settings.home.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
