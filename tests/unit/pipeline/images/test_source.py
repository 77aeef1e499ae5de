"""Against real servers on loopback: one plays Label Studio, one a stranger.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.errors import ImageSourceError
from pipeline.images.source import ImageSource
from pipeline.settings import ImageSettings, LabelStudioSettings, Settings

PICTURE = b"picture bytes"
AUTH = {"Authorization": "Token secret"}


@dataclass
class Server:
    url: str
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    seen: list[tuple[str, str | None]] = field(default_factory=list)  # path, Authorization

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")


@contextmanager
def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here.seen.append((self.path, self.headers["Authorization"]))
            status, headers, body = here.pages.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "drip" in self.path:
                self.end_headers()
                for _ in range(100):
                    try:
                        self.wfile.write(b"x")
                        self.wfile.flush()
                    except OSError:
                        return
                    time.sleep(0.05)
                return
            if "endless" in self.path:
                self.end_headers()
                try:
                    while True:
                        self.wfile.write(bytes(65536))
                except OSError:
                    return
            self.send_header("Content-Length", headers.get("X-Claim", str(len(body))))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here = Server(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield here
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def label_studio() -> Iterator[Server]:
    with serving() as server:
        server.pages["/data/upload/1/a.png"] = (200, {}, PICTURE)
        yield server


@pytest.fixture
def stranger() -> Iterator[Server]:
    with serving() as server:
        server.pages["/a.png"] = (200, {}, PICTURE)
        yield server


@contextmanager
def source(label_studio: Server, base: str = "", **images: object) -> Iterator[ImageSource]:
    settings = Settings(
        label_studio=LabelStudioSettings(url=label_studio.url + base),
        images=ImageSettings.model_validate({"timeout_seconds": 5, **images}),
    )
    with ImageSource(settings, lambda: AUTH) as made:
        yield made


def test_a_path_is_label_studios_and_carries_the_token(label_studio: Server) -> None:
    with source(label_studio) as images:
        assert images.fetch("/data/upload/1/a.png") == PICTURE
        assert images.fetch(f"{label_studio.url}/data/upload/1/a.png") == PICTURE
    assert label_studio.seen == [("/data/upload/1/a.png", "Token secret")] * 2


def test_names_with_spaces_and_letters_of_all_kinds(label_studio: Server) -> None:
    label_studio.pages["/data/upload/1/K%C3%A4se%20%231.png"] = (200, {}, PICTURE)
    with source(label_studio) as images:
        assert images.fetch("/data/upload/1/Käse %231.png") == PICTURE


def test_label_studio_below_a_path(label_studio: Server) -> None:
    label_studio.pages["/ls/data/upload/1/a.png"] = (200, {}, PICTURE)
    with source(label_studio, base="/ls/") as images:
        assert images.fetch("/data/upload/1/a.png") == PICTURE
        assert images.fetch("/ls/data/upload/1/a.png") == PICTURE


def test_storage_addresses_go_through_label_studio(label_studio: Server) -> None:
    label_studio.pages["/tasks/3/presign/?fileuri=czM6Ly9h"] = (200, {}, PICTURE)
    label_studio.pages["/data/local-files/?d=sub/a.png"] = (200, {}, PICTURE)
    with source(label_studio) as images:
        assert images.fetch("/tasks/3/presign/?fileuri=czM6Ly9h") == PICTURE
        assert images.fetch("/data/local-files/?d=sub/a.png") == PICTURE


@pytest.mark.parametrize(
    "url",
    [
        "/api/projects/1/export",
        "/user/logout",
        "/data/../api/projects",
        "/data/%2e%2e/api/projects",
        "/data/%252e%252e/api/projects",
        "/data/..%2fapi/projects",
        "/data/local-files/?d=../../etc/passwd",
        "/data/local-files/?d=%2e%2e%2fetc",
        "/data/",
        "/",
    ],
)
def test_the_token_reaches_nothing_but_files(label_studio: Server, url: str) -> None:
    with source(label_studio) as images, pytest.raises(ImageSourceError):
        images.fetch(url)
    assert label_studio.seen == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "   ",
        "a.png",
        "../a.png",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "ftp://host/a.png",
        "s3://bucket/a.png",
        "gs://bucket/a.png",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "//evil.example/a.png",
        "/\\evil.example/a.png",
        "http://",
        "http:///a.png",
        "http://[::1/a.png",
        "http://host:99999/a.png",
        "http://evil.example/a.png",
        "https://169.254.169.254/latest/meta-data",
        "/data/\x00.png",
        "/data/a\r\nX-Evil: 1.png",
    ],
)
def test_addresses_that_are_refused_without_a_request(label_studio: Server, url: str) -> None:
    with source(label_studio) as images, pytest.raises(ImageSourceError) as caught:
        images.fetch(url)
    assert str(caught.value).endswith(".")
    assert label_studio.seen == []


def test_another_host_must_be_allowed_and_never_sees_the_token(
    label_studio: Server, stranger: Server
) -> None:
    with (
        source(label_studio) as images,
        pytest.raises(ImageSourceError, match=f"add {stranger.host} to images.allowed_hosts"),
    ):
        images.fetch(f"{stranger.url}/a.png")
    assert stranger.seen == []
    with source(label_studio, allowed_hosts=[stranger.host]) as images:
        assert images.fetch(f"{stranger.url}/a.png") == PICTURE
    assert stranger.seen == [("/a.png", None)]


def test_an_allowed_host_is_allowed_on_its_usual_port_only(
    label_studio: Server, stranger: Server
) -> None:
    with (
        source(label_studio, allowed_hosts=["127.0.0.1"]) as images,
        pytest.raises(ImageSourceError, match="not allowed"),
    ):
        images.fetch(f"{stranger.url}/a.png")


def test_a_password_in_the_address_is_refused_and_not_shown(label_studio: Server) -> None:
    url = label_studio.url.replace("//", "//me:hunter2@") + "/data/upload/1/a.png"
    with source(label_studio) as images, pytest.raises(ImageSourceError) as caught:
        images.fetch(url)
    assert "hunter2" not in str(caught.value)


def test_a_redirect_to_an_allowed_host_leaves_the_token_behind(
    label_studio: Server, stranger: Server
) -> None:
    label_studio.pages["/data/upload/1/b.png"] = (303, {"Location": f"{stranger.url}/a.png"}, b"")
    with source(label_studio, allowed_hosts=[stranger.host]) as images:
        assert images.fetch("/data/upload/1/b.png") == PICTURE
    assert label_studio.seen == [("/data/upload/1/b.png", "Token secret")]
    assert stranger.seen == [("/a.png", None)]


@pytest.mark.parametrize(
    "location",
    ["{stranger}/a.png", "//{host}/a.png", "file:///etc/passwd", "/api/users", "http://"],
)
def test_a_redirect_elsewhere_is_refused(
    label_studio: Server, stranger: Server, location: str
) -> None:
    location = location.format(stranger=stranger.url, host=stranger.host)
    label_studio.pages["/data/upload/1/b.png"] = (302, {"Location": location}, b"")
    with source(label_studio) as images, pytest.raises(ImageSourceError):
        images.fetch("/data/upload/1/b.png")
    assert stranger.seen == []
    assert {path for path, _ in label_studio.seen} == {"/data/upload/1/b.png"}


def test_a_stranger_cannot_send_us_into_label_studios_api(
    label_studio: Server, stranger: Server
) -> None:
    stranger.pages["/b.png"] = (302, {"Location": f"{label_studio.url}/api/users"}, b"")
    with (
        source(label_studio, allowed_hosts=[stranger.host]) as images,
        pytest.raises(ImageSourceError),
    ):
        images.fetch(f"{stranger.url}/b.png")
    assert label_studio.seen == []


def test_a_login_page_names_the_token(label_studio: Server) -> None:
    label_studio.pages["/data/upload/1/b.png"] = (302, {"Location": "/user/login/?next=/"}, b"")
    with (
        source(label_studio) as images,
        pytest.raises(ImageSourceError, match=r"check label_studio\.token"),
    ):
        images.fetch("/data/upload/1/b.png")


def test_redirects_end(label_studio: Server) -> None:
    label_studio.pages["/data/loop"] = (302, {"Location": "/data/loop"}, b"")
    with source(label_studio) as images, pytest.raises(ImageSourceError, match="more than 5"):
        images.fetch("/data/loop")
    assert len(label_studio.seen) == 6


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "token"), (404, "still there"), (500, "still there")]
)
def test_an_answer_that_is_no_file(label_studio: Server, status: int, remedy: str) -> None:
    label_studio.pages["/data/x?signature=private"] = (status, {}, b"sorry")
    with source(label_studio) as images, pytest.raises(ImageSourceError, match=remedy) as caught:
        images.fetch("/data/x?signature=private")
    assert "private" not in str(caught.value)


def test_the_size_cap_holds_by_header_and_by_byte(label_studio: Server) -> None:
    label_studio.pages["/data/claims"] = (200, {"X-Claim": "999999999"}, b"")
    label_studio.pages["/data/fits"] = (200, {}, b"x" * 1000)
    with source(label_studio, max_bytes=1000) as images:
        assert len(images.fetch("/data/fits")) == 1000
        with pytest.raises(ImageSourceError, match="limit of 1,000 bytes"):
            images.fetch("/data/claims")
        label_studio.pages["/data/endless"] = (200, {}, b"")
        with pytest.raises(ImageSourceError, match="limit of 1,000 bytes"):
            images.fetch("/data/endless")


def test_a_server_that_drips_is_too_slow(label_studio: Server) -> None:
    label_studio.pages["/data/drip"] = (200, {}, b"")
    began = time.monotonic()
    with (
        source(label_studio, timeout_seconds=0.4) as images,
        pytest.raises(ImageSourceError, match=r"within 0\.4 s"),
    ):
        images.fetch("/data/drip")
    assert time.monotonic() - began < 2


def test_a_reply_cut_off_is_an_error(label_studio: Server) -> None:
    label_studio.pages["/data/cut"] = (200, {"X-Claim": "100"}, b"half")
    with source(label_studio) as images, pytest.raises(ImageSourceError, match="cannot be fetched"):
        images.fetch("/data/cut")


def test_a_server_that_is_not_there() -> None:
    with (
        source(Server("http://127.0.0.1:9")) as images,
        pytest.raises(ImageSourceError, match="can be reached"),
    ):
        images.fetch("/data/upload/1/a.png")


# --- the folder of files ---


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "a b.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "files-too").mkdir()
    (tmp_path / "files-too" / "secret.png").write_bytes(b"secret")
    return root


def local(folder: Path, **images: object) -> ImageSource:
    images = {"files_root": folder, **images}
    return ImageSource(Settings(images=ImageSettings.model_validate(images)), lambda: AUTH)


@pytest.mark.parametrize("name", ["sub/a b.png", "sub/a%20b.png", "sub/a+b.png", "./sub/a b.png"])
def test_a_file_below_the_root(folder: Path, name: str) -> None:
    with local(folder) as images:
        assert images.fetch(f"/data/local-files/?d={name}") == PICTURE


def test_a_link_that_stays_inside_is_followed(folder: Path) -> None:
    (folder / "link.png").symlink_to(folder / "sub" / "a b.png")
    with local(folder) as images:
        assert images.fetch("/data/local-files/?d=link.png") == PICTURE


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "sub/../../secret.png",
        "%2e%2e/secret.png",
        "..%2fsecret.png",
        "../files-too/secret.png",
        "{outside}",
        "{outside_encoded}",
        "out.png",
        "outdir/secret.png",
    ],
)
def test_no_path_leaves_the_root(folder: Path, name: str) -> None:
    outside = folder.parent / "secret.png"
    (folder / "out.png").symlink_to(outside)
    (folder / "outdir").symlink_to(folder.parent)
    name = name.format(outside=outside, outside_encoded=str(outside).replace("/", "%2F"))
    with local(folder) as images, pytest.raises(ImageSourceError, match="leads out"):
        images.fetch(f"/data/local-files/?d={name}")


@pytest.mark.parametrize(
    "query",
    ["?d=missing.png", "?d=sub", "?d=", "", "?x=1", "?d=a&d=b", "?d=a%00b", "?d=" + "x" * 999],
)
def test_what_is_no_file(folder: Path, query: str) -> None:
    with local(folder) as images, pytest.raises(ImageSourceError) as caught:
        images.fetch(f"/data/local-files/{query}")
    assert str(folder) not in str(caught.value)


@pytest.mark.parametrize("name", ["%252e%252e/secret.png", "..%5csecret.png"])
def test_encoded_twice_is_just_an_odd_name(folder: Path, name: str) -> None:
    with local(folder) as images, pytest.raises(ImageSourceError, match="cannot be read"):
        images.fetch(f"/data/local-files/?d={name}")


def test_a_pipe_does_not_hold_us_up(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    with local(folder) as images, pytest.raises(ImageSourceError, match="is no file"):
        images.fetch("/data/local-files/?d=pipe.png")


def test_a_local_file_over_the_cap(folder: Path) -> None:
    with local(folder, max_bytes=5) as images, pytest.raises(ImageSourceError, match="limit of 5"):
        images.fetch("/data/local-files/?d=sub/a b.png")


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    with local(tmp_path / "gone") as images, pytest.raises(ImageSourceError, match="files_root"):
        images.fetch("/data/local-files/?d=a.png")
