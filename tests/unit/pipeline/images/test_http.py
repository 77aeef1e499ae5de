"""Against real servers on loopback that do what they can to hold us up or lead us astray."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from pipeline.errors import ImageSourceError
from pipeline.images.source import ImageSource
from pipeline.settings import ImageSettings, Settings

PICTURE = b"picture bytes"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n" + PICTURE
TIME = 0.5  # seconds a fetch may take here

Talk = Callable[[socket.socket], None]


@contextmanager
def server(talk: Talk, asked: list[bytes] | None = None) -> Iterator[int]:
    """The port of a server that reads a request and then talks as it likes."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                request = self.request.recv(65536)
                if asked is not None:
                    asked.append(request)
                talk(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield running.server_address[1]
        finally:
            running.shutdown()
            thread.join()


@contextmanager
def source(*hosts: str, **images: object) -> Iterator[ImageSource]:
    settings = Settings(
        images=ImageSettings.model_validate(
            {"timeout_seconds": TIME, "allowed_hosts": hosts, **images}
        )
    )
    with ImageSource(settings, dict) as made:
        yield made


def fetched(talk: Talk, **images: object) -> bytes:
    with server(talk) as port, source(f"127.0.0.1:{port}", **images) as made:
        return made.fetch(f"http://127.0.0.1:{port}/a.png")


def slowly(data: bytes, pause: float = 0.05) -> Talk:
    def talk(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause)

    return talk


def for_ever(start: bytes, more: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(more)

    return talk


def at_once(data: bytes) -> Talk:
    return lambda connection: connection.sendall(data)


def silent(connection: socket.socket) -> None:
    time.sleep(4 * TIME)


@pytest.mark.parametrize(
    "talk",
    [
        pytest.param(silent, id="says nothing"),
        pytest.param(slowly(WHOLE), id="drips its headers"),
        pytest.param(
            lambda connection: (
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
                slowly(b"x" * 999)(connection),
            ),
            id="drips its body",
        ),
        pytest.param(
            for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), id="says for ever that it will begin"
        ),
        pytest.param(
            slowly(b"HTTP/1.1 302 Found\r\nLocation: /b.png\r\n\r\n", 0.02),
            id="redirects, each time in time",
        ),
    ],
)
def test_the_whole_of_it_has_to_be_over_in_time(talk: Talk) -> None:
    began = time.monotonic()
    with pytest.raises(ImageSourceError, match=r"within 0\.5 s; check its server or raise"):
        fetched(talk)
    assert time.monotonic() - began < 3 * TIME


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("talk", "sentence"),
    [
        (for_ever(HEAD + b"\r\n", bytes(65536)), "over the limit"),
        (for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), "over the limit"),
        (at_once(HEAD + b"Content-Length: 99999999999999999999\r\n\r\n"), "over the limit"),
        (for_ever(HEAD, b"X-More: " + b"x" * 50_000 + b"\r\n"), "cannot be fetched"),
        (at_once(HEAD + b"X-Huge: " + b"x" * 200_000 + b"\r\n\r\n"), "cannot be fetched"),
        (at_once(HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"), "cannot be"),
        (at_once(HEAD + b"Content-Length: -5\r\n\r\nabcdef"), "cannot be fetched"),
        (at_once(HEAD + b"Content-Length: 99\r\n\r\ncut off"), "cannot be fetched"),
        (at_once(b"SSH-2.0-OpenSSH_9\r\n"), "cannot be fetched"),
        (at_once(b""), "cannot be fetched"),
        (at_once(b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n"), "not allowed"),
        (
            at_once(b"HTTP/1.1 302 Found\r\nLocation: /" + b"a" * 80_000 + b"\r\n\r\n"),
            "cannot be fetched",
        ),
        (at_once(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"), "answered 302"),
        (at_once(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab"), "packed"),
        (at_once(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), "without logging in"),
    ],
)  # fmt: skip
def test_what_is_said_is_judged_in_a_sentence(talk: Talk, sentence: str) -> None:
    with pytest.raises(ImageSourceError, match=sentence) as caught:
        fetched(talk, max_bytes=20_000, timeout_seconds=10)
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 600


def test_no_cookie_comes_back() -> None:
    """One host's may not follow a later image to it, nor to another."""
    asked: list[bytes] = []
    reply = WHOLE.replace(b"Content", b"Connection: close\r\nSet-Cookie: a=1; Path=/\r\nContent")
    with server(at_once(reply), asked) as port, source(f"127.0.0.1:{port}") as images:
        for _ in range(2):
            assert images.fetch(f"http://127.0.0.1:{port}/a.png") == PICTURE
    assert len(asked) == 2 and not any(b"cookie" in request.lower() for request in asked)


# --- what names stand for ---


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Names and what they stand for, beside those that the machine knows; each look-up of a name
    takes the next address while there are more."""
    known: dict[str, list[str]] = {}
    really = socket.getaddrinfo

    def look_up(host: str, *args: object, **options: object) -> object:
        if host not in known:
            return really(host, *args, **options)  # type: ignore[arg-type]
        address = known[host].pop(0) if len(known[host]) > 1 else known[host][0]
        return really(address, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.mark.parametrize(
    ("address", "allow_private"),
    [
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("192.168.1.1", False),
        ("172.17.0.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("fd00::1", False),
        ("fd00:ec2::254", True),
        ("64:ff9b::7f00:1", False),  # 127.0.0.1 behind NAT64
        ("64:ff9b::a9fe:a9fe", True),  # 169.254.169.254
        ("2002:7f00:1::", False),  # 127.0.0.1 in 6to4
        ("2002:a9fe:a9fe::", True),
        ("192.0.0.192", False),
        ("192.0.0.192", True),
        ("::ffff:127.0.0.1", False),
        ("169.254.169.254", False),
        ("169.254.169.254", True),
        ("::ffff:169.254.169.254", True),
        ("fe80::1", True),
    ],
)
def test_an_allowed_name_that_stands_for_a_private_address(
    names: dict[str, list[str]], address: str, allow_private: bool
) -> None:
    names["pictures.example"] = [address]
    with (
        source("pictures.example", allow_private=allow_private) as images,
        pytest.raises(ImageSourceError, match=r"a private network; set images\.allow_private"),
    ):
        images.fetch("http://pictures.example/a.png")


def test_a_name_in_ones_own_network_when_that_is_said(names: dict[str, list[str]]) -> None:
    names["nas.example"] = ["127.0.0.1"]
    with server(at_once(WHOLE)) as port:
        with source(f"nas.example:{port}", allow_private=True) as images:
            assert images.fetch(f"http://nas.example:{port}/a.png") == PICTURE
        with source(f"localhost:{port}") as images:
            assert images.fetch(f"http://localhost:{port}/a.png") == PICTURE


def test_what_was_checked_is_what_is_connected_to(names: dict[str, list[str]]) -> None:
    """A name that stands for something else at the next look-up gains nothing: there is none."""
    names["rebinding.example"] = ["127.0.0.1", "169.254.169.254"]
    with (
        server(at_once(WHOLE)) as port,
        source(f"rebinding.example:{port}", allow_private=True) as images,
    ):
        assert images.fetch(f"http://rebinding.example:{port}/a.png") == PICTURE


def test_a_name_that_nobody_knows(names: dict[str, list[str]]) -> None:
    with source("nowhere.invalid") as images, pytest.raises(ImageSourceError, match="no address"):
        images.fetch("http://nowhere.invalid/a.png")


@pytest.mark.parametrize(
    "location",
    [
        "http://127.1:{port}/a.png",
        "http://2130706433:{port}/a.png",
        "http://0x7f000001:{port}/a.png",
        "http://[::ffff:127.0.0.1]:{port}/a.png",
        "http://localhost:{port}/a.png",
        "http://10.0.0.1/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://me:word@127.0.0.1:{port}/a.png",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "s3://bucket/a.png",
    ],
)
def test_a_redirect_to_what_is_not_allowed(location: str) -> None:
    seen: list[bytes] = []
    with server(silent, seen) as other:
        place = location.format(port=other).encode()
        talk = at_once(b"HTTP/1.1 302 Found\r\nLocation: " + place + b"\r\n\r\n")
        with pytest.raises(ImageSourceError) as caught:
            fetched(talk, s3_buckets=["bucket"])
    assert "word" not in str(caught.value).partition("without a password")[0] and not seen


# --- proxies ---


def test_a_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []
    monkeypatch.setenv("no_proxy", "")
    with server(at_once(WHOLE), asked) as port, source("pictures.invalid") as images:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        assert images.fetch("http://pictures.invalid/a.png") == PICTURE
        monkeypatch.setenv("no_proxy", "pictures.invalid")
        with pytest.raises(ImageSourceError, match="no address"):
            images.fetch("http://pictures.invalid/a.png")
    assert [request.splitlines()[0] for request in asked] == [
        b"GET http://pictures.invalid/a.png HTTP/1.1"
    ]
