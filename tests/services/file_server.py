"""A real HTTP server on loopback that serves one file, with the faults that a test sets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.registry import download as downloading

DATA = bytes(range(256)) * 4000


class FileServer(ThreadingHTTPServer):
    """Serves ``data`` at every address; the fields set how it behaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.etag: str | None = '"one"'
        self.ranges = True
        self.if_range = True  # whether a file that changed is sent from its beginning
        self.piece: int | None = None  # most bytes in the reply to a range
        self.drop_after: list[int] = []  # bytes after which each of the next replies breaks off
        self.statuses: list[int] = []  # status codes of the next replies, before files are served
        self.headers: dict[str, str] = {}
        self.asked: list[str | None] = []  # the Range of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/models/a.pth?signature=secret"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers["Range"]
        server.asked.append(wanted)
        self.close_connection = True
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        total = len(server.data)
        same = self.headers["If-Range"] == server.etag or not server.if_range
        if wanted and server.ranges and same:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            body = server.data[start:][: server.piece]
            self.send_response(206 if body else 416)
            sent = f"{start}-{start + len(body) - 1}" if body else "*"
            self.send_header("Content-Range", f"bytes {sent}/{total}")
        else:
            body = server.data
            self.send_response(200)
        if server.etag:
            self.send_header("ETag", server.etag)
        for name, value in {"Content-Length": str(len(body)), **server.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        with suppress(ConnectionError):  # the client may have closed the connection
            self.wfile.write(body[: server.drop_after.pop(0)] if server.drop_after else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr(downloading, "PAUSE", 0.001)
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()
