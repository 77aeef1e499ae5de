"""Serve the FiftyOne App: ``python -m pipeline.mirror.app``.

FiftyOne's own launcher starts a server in a child process that belongs to a session in the parent.
When the parent dies, the child keeps running and keeps the port. Here the server runs in this
process, in the foreground, and ends with SIGTERM or SIGINT.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any

from model.errors import MaskloopError
from pipeline.errors import ServiceError
from pipeline.images.catalog import IMAGES
from pipeline.mirror.access import App, guard, refuse_file_operators
from pipeline.mirror.connection import connect_fiftyone, mask_folder
from pipeline.mirror.schema import open_dataset
from pipeline.settings import Settings, load_settings
from pipeline.storage.store import Store

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve the App at ``settings.fiftyone`` host and port until SIGTERM or SIGINT.

    The mirrored dataset is opened; an empty one is made when no mirror has run yet. Later changes
    of a mirror run appear when the page is loaded again.

    Raises:
        ServiceError: mongod does not answer, or the port is taken.
    """
    host, port = settings.fiftyone.host, settings.fiftyone.port
    _require_free(host, port)
    os.environ["FIFTYONE_SERVER"] = "1"  # as FiftyOne's launcher sets it for its server
    fiftyone = connect_fiftyone(settings)
    dataset = open_dataset(fiftyone, settings.fiftyone.dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come from FiftyOne's own dependencies
        from fiftyone.server.app import app
        from fiftyone.server.events import get_state, set_port
        from hypercorn.asyncio import serve as run
        from hypercorn.config import Config

    app.debug = False  # otherwise a page with an error shows pieces of code and of memory
    refuse_file_operators()
    if not settings.fiftyone_login[1]:
        log.warning(
            "The FiftyOne App asks for no password: everyone who can reach port %d, every account "
            "of this machine included, can read and change the data set. Set fiftyone.password.",
            port,
        )
    media = [Store(settings.store_address).local_folder(IMAGES), mask_folder(settings)]
    set_port(port)
    config = Config()
    config.bind = [f"{host}:{port}"]
    config.accesslog = None
    config.graceful_timeout = 1.0  # every open page keeps a stream open

    def refresh() -> None:
        # The server keeps the dataset in the state of its first use. It would not know a view that
        # a mirror run saved later, and a link to that view would show everything.
        shown = get_state().dataset
        if shown is not None and not shown.deleted:
            shown.reload()

    def show_all() -> None:
        get_state().view = None  # otherwise the front page shows the last open view

    async def until_told() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        log.info("FiftyOne listens at http://%s:%d.", host, port)
        fronted = _fronted(app, dataset.slug, refresh, show_all)
        await run(guard(fronted, settings, media), config, shutdown_trigger=stop.wait)

    asyncio.run(until_told())


def _fronted(app: App, slug: str, refresh: Callable[[], None], show_all: Callable[[], None]) -> App:
    """Wrap ``app`` so that its front page shows the whole dataset and not a list of datasets.

    ``refresh`` is called whenever a page is opened, ``show_all`` before the front page is shown.
    """

    async def fronted(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"] if scope["type"] == "http" else None
        if path == "/":
            show_all()
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            address = b"/datasets/" + slug.encode() + query
            await send(
                {"type": "http.response.start", "status": 307, "headers": [(b"location", address)]}
            )
            await send({"type": "http.response.body", "body": b""})
            return
        if path == "/events":  # the first request of a page
            await asyncio.to_thread(refresh)
        await app(scope, receive, send)

    return fronted


def _require_free(host: str, port: int) -> None:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"FiftyOne cannot listen on {host}:{port} ({error.strerror}); end what uses that "
                "port, or change fiftyone.port."
            ) from None


def main() -> None:
    """Entry point of ``python -m pipeline.mirror.app``.

    An error that a user can cause gives one sentence and exit code 1.
    """
    try:
        settings = load_settings()
        logging.basicConfig(level=settings.log_level)
        logging.getLogger("fiftyone").propagate = False  # it has its own handler
        serve(settings)
    except MaskloopError as error:
        log.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
