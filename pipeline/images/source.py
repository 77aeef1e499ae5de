"""Fetches the image that a task points at, from the few places that tasks may point at.

Everybody who can create tasks chooses such addresses, and we hold Label Studio's token and are
inside its network. So every address, including each redirect, must be allowed beforehand.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote

import httpcore
import httpx

from pipeline.errors import ImageSourceError
from pipeline.images.http import GuardedHttp
from pipeline.images.s3 import S3, Buckets
from pipeline.settings import Settings

LOCAL_FILES = "/data/local-files/"
# Paths under which Label Studio serves files. Its API, which our token opens, must not be read as
# an image.
_FILE_PATHS = re.compile(
    r"/(data|storage-data|static)/.+|/(tasks|projects)/[0-9]+/(presign|resolve)/"
)
_REDIRECTS = 5
_REDIRECT_CODES = (301, 302, 303, 307, 308)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MOST_DECODINGS = 4  # times that a server may decode an escaped path
_LONGEST_NAME = 120  # characters of an address in a message
_LONGEST_REASON = 200  # characters of another library's message

Auth = Callable[[], Mapping[str, str]]


class ImageSource:
    """Reads image files by the value of a task's image field. Threads may share one.

    Args:
        auth: gives the headers that Label Studio asks for. It is called for each request to Label
            Studio, and the headers are sent to no other server.
    """

    def __init__(self, settings: Settings, auth: Auth) -> None:
        self._limits = settings.images
        self._auth = auth
        self._label_studio = httpx.URL(settings.label_studio.url.rstrip("/"))
        self._http = GuardedHttp(allow_private=settings.images.allow_private)
        self._buckets = Buckets(settings.images)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._http.close()

    def fetch(self, url: str) -> bytes:
        """The bytes behind ``url``, at most ``images.max_bytes`` of them.

        A path means a file of Label Studio; a path under ``/data/local-files/`` is read from
        ``images.files_root`` if that is set. An http(s) address must be on Label Studio or on one
        of ``images.allowed_hosts``, and an ``s3://bucket/name`` in one of ``images.s3_buckets``.

        Raises:
            ImageSourceError: the address is not allowed, or no image can be read from it.
        """
        url = url.strip()
        if url.startswith(LOCAL_FILES) and self._limits.files_root is not None:
            return self._read_local(url, self._limits.files_root)
        if url[: len(S3)].lower() == S3:
            # The settings allow the bucket and name its server. Neither is true of a redirect.
            return self._download(self._buckets.signed(url, _short(url)), ours=True, name=url)
        return self._download(self._absolute(url))

    # --- files on this machine ---

    def _read_local(self, url: str, root: Path) -> bytes:
        names = parse_qs(url.partition("?")[2]).get("d", [])
        if len(names) != 1:
            raise ImageSourceError(
                f"{_short(url)} names no file; write it as {LOCAL_FILES}?d=folder/name.jpg."
            )
        try:
            root = root.resolve(strict=True)
            path = (root / names[0]).resolve()  # Links are followed, so their end is checked.
            if not path.is_relative_to(root):
                raise ImageSourceError(
                    f"{_short(url)} leads out of images.files_root; move the file into that folder."
                )
            # The flags avoid waiting for ever on a pipe, and following a link made since the check.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise ImageSourceError(f"{_short(url)} is no file; point the task at a file.")
                data = file.read(self._limits.max_bytes + 1)
        except (OSError, ValueError) as error:  # ValueError: the name has a zero byte.
            reason = getattr(error, "strerror", None) or "not a file name"
            raise ImageSourceError(
                f"{_short(url)} cannot be read ({reason}); check that it lies in "
                "images.files_root and may be read."
            ) from error
        self._check_size(len(data), url)
        return data

    # --- files behind HTTP ---

    def _absolute(self, url: str) -> httpx.URL:
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
        try:
            if scheme and scheme[1].lower() in _DEFAULT_PORTS:
                return httpx.URL(url)
            if not scheme and url.startswith("/") and not url.startswith(("//", "/\\")):
                base = self._label_studio.path.rstrip("/")
                path = url if base and url.startswith(f"{base}/") else f"{base}{url}"
                return self._label_studio.join(path)
        except (httpx.InvalidURL, ValueError):
            pass
        what = f"{scheme[1].lower()}: addresses" if scheme else "an address of this form"
        raise ImageSourceError(
            f"The image {_short(url)} cannot be fetched, since {what} cannot be used; give the "
            "task a path of Label Studio's, an http(s) or an s3:// address."
        )

    def _download(self, url: httpx.URL, *, ours: bool = False, name: str = "") -> bytes:
        """The bytes behind ``url``.

        Args:
            ours: whether we made the address, so that its host need not be allowed.
            name: the image's name in errors before any redirect; empty: its address.
        """
        deadline = time.monotonic() + self._limits.timeout_seconds
        try:
            for _ in range(_REDIRECTS + 1):
                headers = {} if ours else self._headers(url)
                at_home = _origin(url) == _origin(self._label_studio)
                with self._http.get(
                    url,
                    # Ask for uncompressed files: a compressed one could grow a thousandfold.
                    {"Accept-Encoding": "identity", "User-Agent": "maskloop", **headers},
                    deadline=deadline,
                    anywhere=ours or at_home,
                ) as response:
                    location = _header(response, "location")
                    if response.status not in _REDIRECT_CODES or not location:
                        return self._receive(response, name or str(url), at_home=at_home)
                    url, ours, name = url.join(location), False, ""
        except httpcore.TimeoutException as error:
            raise ImageSourceError(
                f"The image {_short(name or url)} did not arrive within "
                f"{self._limits.timeout_seconds:g} s; check its server or raise "
                "images.timeout_seconds."
            ) from error
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.ProxyError,
            httpx.InvalidURL,
        ) as error:
            raise ImageSourceError(
                f"The image {_short(name or url)} cannot be fetched "
                f"({str(error)[:_LONGEST_REASON] or type(error).__name__}); check that its server "
                "runs and can be reached from here."
            ) from error
        raise ImageSourceError(
            f"The image {_short(url)} is redirected more than {_REDIRECTS} times; "
            "give the task the address it ends at."
        )

    def _headers(self, url: httpx.URL) -> dict[str, str]:
        """The headers for a request to ``url``. Raises ImageSourceError if it is not allowed."""
        if url.scheme not in _DEFAULT_PORTS or not url.host or url.userinfo:
            raise ImageSourceError(
                f"The image {_short(url)} cannot be fetched; "
                "give the task an http(s) address without a password in it."
            )
        if _origin(url) == _origin(self._label_studio):
            base = self._label_studio.path.rstrip("/")
            path = unquote(url.path).removeprefix(base)
            if not _FILE_PATHS.fullmatch(path) or _climbs(url):
                raise ImageSourceError(
                    f"{_short(url)} is not among the files Label Studio serves; if it is a login "
                    "page, check label_studio.token, else correct the task's address."
                )
            return dict(self._auth())
        host, port = url.host.lower(), url.port or _DEFAULT_PORTS[url.scheme]
        named = f"{host}:{port}"
        allowed = {each.lower() for each in self._limits.allowed_hosts}
        if named in allowed or (host in allowed and port == _DEFAULT_PORTS[url.scheme]):
            return {}
        add = host if port == _DEFAULT_PORTS[url.scheme] else named
        raise ImageSourceError(
            f"The image {_short(url)} lies on a host that is not allowed; "
            f"add {add} to images.allowed_hosts if you trust it."
        )

    def _receive(self, response: httpcore.Response, name: str, *, at_home: bool) -> bytes:
        if response.status != httpx.codes.OK:
            reason = bytes(response.extensions.get("reason_phrase", b""))[:80].decode("latin-1")
            raise ImageSourceError(
                f"The image {_short(name)} cannot be fetched: its server answered "
                f"{response.status} {reason}; {_remedy(response, name, at_home=at_home)}."
            )
        coding = _header(response, "content-encoding")
        if coding not in ("", "identity"):
            raise ImageSourceError(
                f"The image {_short(name)} comes packed ({coding[:20]!r}), although maskloop asked "
                "for an uncompressed file; switch compression off in its server."
            )
        length = _header(response, "content-length")
        self._check_size(int(length) if length.isdecimal() else 0, name)
        data = bytearray()
        for chunk in response.iter_stream():
            data += chunk
            self._check_size(len(data), name)
        return bytes(data)

    def _check_size(self, size: int, name: str) -> None:
        if size > self._limits.max_bytes:
            raise ImageSourceError(
                f"The image {_short(name)} is over the limit of {self._limits.max_bytes:,} bytes; "
                "make it smaller or raise images.max_bytes."
            )


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host.lower(), url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def _climbs(url: httpx.URL) -> bool:
    """Whether ``url`` has a ``..`` once it is decoded; a server may decode it several times."""
    text = url.raw_path.decode("ascii", "replace")
    for _ in range(_MOST_DECODINGS):
        if ".." in re.split(r"[/\\?=&]", text):
            return True
        text = unquote(text)
    return False


def _remedy(response: httpcore.Response, name: str, *, at_home: bool) -> str:
    if name.lower().startswith(S3):
        if region := _header(response, "x-amz-bucket-region"):
            return f"check images.s3_key and what it may read, and images.s3_region: {region[:40]}"
        if response.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            return "check images.s3_key and what it may read"
    elif response.status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        if not at_home:
            return "check that it can be read without logging in, or that its link has not expired"
        return "check label_studio.token and what its account may see"
    # Label Studio answers 500 for an upload whose file is gone.
    return "check that the file is still there, then that server's log"


def _header(response: httpcore.Response, name: str) -> str:
    """The first header of that name; empty when there is none."""
    wanted = name.encode()
    values = (value for key, value in response.headers if key.lower() == wanted)
    return next(values, b"").decode("latin-1").strip()


def _short(url: httpx.URL | str) -> str:
    """An address for a message, without its query, which may hold a signature, and shortened."""
    text = str(url)
    shown = text if text.startswith(LOCAL_FILES) else text.partition("?")[0]
    shown = re.sub(r"//[^/@]*@", "//", shown)
    return repr(shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 3]}...")
