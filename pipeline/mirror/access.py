"""Guards the FiftyOne App: who may use it, from which pages, and which files it hands out.

FiftyOne's own server trusts everyone who can connect to it. It hands out every file that its
account can read, to every account of the machine, and to every web page whose name resolves to this
machine (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pipeline.settings import Settings

App = Callable[[Any, Any, Any], Awaitable[None]]

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # addresses to listen on that are no names of the App
MEDIA_ROUTE = "/media"
# Operators that come with FiftyOne and look at the files of the server, by their short names.
FILE_OPERATORS = frozenset({"list_files", "download_file"})
LOGIN = {"WWW-Authenticate": 'Basic realm="maskloop", charset="UTF-8"'}


def guard(app: App, settings: Settings, media: Sequence[Path]) -> App:
    """``app``, an ASGI app, behind the rules of this module.

    Args:
        media: folders whose files may be handed out, besides ``fiftyone.media_folders``.
    """
    own = settings.fiftyone
    names = {*LOCAL_NAMES, own.host.lower(), *(name.lower() for name in own.allowed_hosts)}
    names -= set(EVERYWHERE)
    folders = [folder.resolve() for folder in (*media, *own.media_folders)]
    user, password = settings.fiftyone_login

    def refusal(request: Request) -> Response | None:
        if (name := _name(request.headers.get("host", ""))) not in names:
            return _sentence(
                403, f"The App is not known as {name!r}; add that name to fiftyone.allowed_hosts."
            )
        if _is_from_another_site(request):
            return _sentence(403, "Pages of other sites may not use the App; open it directly.")
        if password and not _is_login(request.headers.get("authorization", ""), user, password):
            return _sentence(401, "The user or password of the App is wrong.", LOGIN)
        if request.url.path.rstrip("/") == MEDIA_ROUTE:
            path = request.query_params.get("filepath", "")
            if not _is_below(path, folders):
                return _sentence(404, "This is no image or mask of maskloop.")
        return None

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (answer := refusal(Request(scope))) is not None:
            await answer(scope, receive, send)
        elif scope["type"] in ("http", "lifespan"):  # FiftyOne uses no websocket
            await app(scope, receive, send)

    return guarded


def refuse_file_operators() -> None:
    """Let no operator of this process's FiftyOne list or read the files of this machine."""
    from fiftyone.operators import permissions

    class WithoutFiles(permissions.ManagedOperators):  # type: ignore[misc]
        def has_operator(self, operator_uri: str) -> bool:
            return operator_uri.rpartition("/")[2] not in FILE_OPERATORS

    permissions.ManagedOperators = WithoutFiles


def _name(host: str) -> str:
    """The name in a Host header, in lower case and without a port; empty if it has none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:  # An unmatched bracket.
        return ""


def _is_from_another_site(request: Request) -> bool:
    origin = request.headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower()
    # A browser sends no Origin with an image or a script. A link that a person follows is allowed.
    site = request.headers.get("sec-fetch-site", "none")
    return site == "cross-site" and request.headers.get("sec-fetch-mode") != "navigate"


def _is_login(header: str, user: str, password: str) -> bool:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return False
    try:
        given = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(given, f"{user}:{password}".encode())


def _is_below(path: str, folders: Sequence[Path]) -> bool:
    """Whether a path names something in one of these folders, after links are followed."""
    if not os.path.isabs(path) or "\0" in path:
        return False
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(folder) and real != folder for folder in folders)


def _sentence(code: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return PlainTextResponse(text, status_code=code, headers=headers)
