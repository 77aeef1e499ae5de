"""Who may use the FiftyOne App, from which pages, and which files it hands out."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from pipeline.mirror.access import App, guard
from pipeline.settings import BackendSettings, FiftyOneSettings, Settings

BASE = "http://127.0.0.1:5151"
LOGIN = ("maskloop", "right")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / name for name in ("home", "images", "masks", "team")}
    for folder in made.values():
        folder.mkdir()
        (folder / "file.png").write_bytes(b"x")
    (made["home"] / "maskloop.toml").write_text("secret")
    (made["images"] / "link.png").symlink_to(made["home"] / "maskloop.toml")
    (made["images"] / "sub").mkdir()
    (made["images"] / "sub" / "file.png").write_bytes(b"x")
    return made


class Browser:
    """Sends requests to a guarded App, without a server."""

    def __init__(self, app: App) -> None:
        self._app = app

    def get(self, url: str, **how: Any) -> httpx.Response:
        return asyncio.run(self._send("GET", url, how))

    def post(self, url: str, **how: Any) -> httpx.Response:
        return asyncio.run(self._send("POST", url, how))

    async def _send(self, method: str, url: str, how: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(app=self._app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            return await client.request(method, url, **how)


@pytest.fixture
def client(folders: dict[str, Path]) -> Browser:
    return made_client(folders)


def made_client(folders: dict[str, Path], **fiftyone: object) -> Browser:
    async def media(request: Request) -> PlainTextResponse:
        return PlainTextResponse(Path(request.query_params["filepath"]).read_text())

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("page")

    app = Starlette(
        routes=[
            Route("/media", media),
            Route("/media/", media),
            Route("/graphql", page, methods=["GET", "POST"]),
        ]
    )
    settings = Settings(
        home=folders["home"],
        backend=BackendSettings(password=SecretStr("right")),
        fiftyone=FiftyOneSettings(**{"media_folders": (folders["team"],), **fiftyone}),  # type: ignore[arg-type]
    )
    return Browser(guard(app, settings, [folders["images"], folders["masks"]]))


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1:5151", 200),
        ("localhost:9", 200),
        ("LOCALHOST", 200),
        ("[::1]:5151", 200),
        ("attacker.example:5151", 403),
        ("127.0.0.1.attacker.example", 403),
        ("0.0.0.0:5151", 403),
        ("[::1", 403),
        ("", 403),
        ("localhost@attacker.example", 403),
    ],
)
def test_only_its_own_names_reach_it(client: Browser, host: str, code: int) -> None:
    assert client.get("/graphql", headers={"host": host}, auth=LOGIN).status_code == code


def test_other_names_are_let_in_by_a_setting(folders: dict[str, Path]) -> None:
    client = made_client(folders, allowed_hosts=("Labels.Example",), host="0.0.0.0")
    for host, code in (("labels.example", 200), ("0.0.0.0", 403), ("other.example", 403)):
        answer = client.get("/graphql", headers={"host": host}, auth=LOGIN)
        assert answer.status_code == code
    assert "fiftyone.allowed_hosts" in answer.text


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "http://127.0.0.1:5151"}, 200),
        ({"origin": "http://127.0.0.1:8080"}, 403),  # Label Studio's own pages included
        ({"origin": "http://attacker.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # a link to it
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}, 200),
    ],
)
def test_pages_of_other_sites_may_not_use_it(
    client: Browser, headers: dict[str, str], code: int
) -> None:
    assert client.post("/graphql", headers=headers, auth=LOGIN).status_code == code


@pytest.mark.parametrize(
    "header",
    [
        None,
        "Basic",
        "Basic !!!",
        "Bearer right",
        "Basic " + base64.b64encode(b"maskloop:wrong").decode(),
        "Basic " + base64.b64encode(b"maskloop").decode(),
        "Basic " + base64.b64encode(b"maskloop:right\n").decode(),
    ],
)
def test_without_the_login_nothing_is_told(client: Browser, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    answer = client.get("/graphql", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic")


def test_its_own_password_comes_before_the_backends(folders: dict[str, Path]) -> None:
    client = made_client(folders, password=SecretStr("other"))
    assert client.get("/graphql", auth=LOGIN).status_code == 401
    assert client.get("/graphql", auth=("maskloop", "other")).status_code == 200


def test_only_images_and_masks_are_handed_out(
    client: Browser, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, home = folders["images"], folders["home"]
    monkeypatch.chdir(images)
    for path in ("images", "masks", "team"):
        answer = client.get("/media", params={"filepath": folders[path] / "file.png"}, auth=LOGIN)
        assert answer.status_code == 200
    assert client.get("/media", params={"filepath": images / "sub/file.png"}, auth=LOGIN).is_success
    for path in (
        home / "maskloop.toml",
        images / "link.png",
        f"{images}/../home/maskloop.toml",
        f"{images}/sub/../../home/maskloop.toml",
        f"{images}-other/file.png",
        images,
        "file.png",
        "",
        "/etc/passwd",
        "/proc/self/environ",
        f"{images}/file.png\0",
        f"file://{images}/file.png",
    ):
        for route in ("/media", "/media/"):
            answer = client.get(route, params={"filepath": str(path)}, auth=LOGIN)
            assert answer.status_code == 404, path
            assert "secret" not in answer.text
    both = f"/media?filepath={images}/file.png&filepath={home}/maskloop.toml"
    assert client.get(both, auth=LOGIN).status_code == 404
    assert client.get(f"/%6Dedia?filepath={home}/maskloop.toml", auth=LOGIN).status_code == 404
