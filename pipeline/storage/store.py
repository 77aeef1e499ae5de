"""The store of files: image bytes, embeddings and weights, in a folder or a bucket.

A key is a relative path of plain names joined by ``/``, such as ``images/ab/abc.jpg``. An entry
is always complete: when a process dies while it writes, readers see the former state.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from model.files import write_file
from pipeline.errors import SettingsError, StoreError

# One plain name. It has no leading dot, so it cannot be ".", ".." or a hidden file.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]{0,199}")


class Store:
    """Files by key below ``address``, an fsspec address such as a folder or ``s3://bucket/path``.

    Raises:
        SettingsError: the address names no file system that is installed.
    """

    def __init__(self, address: str) -> None:
        try:
            self._fs: Any
            self._fs, self._root = fsspec.core.url_to_fs(address)
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"store_url cannot be used ({error}); give a folder, or install the fsspec "
                "package for that address."
            ) from error
        self.address = address
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def read(self, key: str) -> bytes:
        """The bytes of ``key``. Raises StoreError when missing or out of reach."""
        path = self._path(key)
        with _sentences(f"{key} cannot be read from the store"):
            return bytes(self._fs.cat_file(path))

    def write(self, key: str, data: bytes) -> None:
        """Write ``data`` at ``key``, replacing an earlier entry. Raises StoreError on failure."""
        path = self._path(key)
        with _sentences(f"{key} cannot be written to the store"):
            if self._is_local:
                write_file(Path(path), data, private=True)
            else:
                self._fs.pipe_file(path, data)  # object stores show an upload only when complete

    def exists(self, key: str) -> bool:
        """Whether ``key`` can be read. Raises StoreError when the store does not answer."""
        path = self._path(key)
        with _sentences(f"The store cannot be asked for {key}"):
            return bool(self._fs.isfile(path))

    def list_keys(self) -> list[str]:
        """All keys, sorted. Raises StoreError when the store does not answer."""
        with _sentences("The store cannot be listed"):
            paths = self._fs.find(self._root) if self._fs.exists(self._root) else []
        root = self._root.rstrip("/") + "/"
        found = sorted(path.removeprefix(root) for path in paths)
        # What a crash left behind, or what somebody else put there, is no entry.
        return [key for key in found if all(_NAME.fullmatch(name) for name in key.split("/"))]

    def delete(self, key: str) -> None:
        """Remove ``key``; nothing happens when it is not there. Raises StoreError on failure."""
        path = self._path(key)
        with _sentences(f"{key} cannot be deleted from the store"), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def local_path(self, key: str) -> Path:
        """A file on this machine with the bytes of ``key``, for readers that need a path.

        Do not write to it. For a bucket it is a copy in the machine's temporary folder, which is
        made again whenever the entry has changed.

        Raises:
            StoreError: the entry is missing, or the store is out of reach.
        """
        path = self._path(key)
        with _sentences(f"{key} cannot be read from the store"):
            if self._is_local:
                if not self._fs.isfile(path):
                    raise FileNotFoundError(path)
                return Path(path)
            state = f"{self.address} {key} {self._fs.ukey(path)}"
            copies = copies_folder()
            copies.mkdir(mode=0o700, exist_ok=True)
            if copies.stat().st_uid != os.getuid():
                raise PermissionError(f"{copies} belongs to another user")
            copy = copies / hashlib.sha256(state.encode()).hexdigest() / Path(key).name
            if not copy.exists():
                write_file(copy, bytes(self._fs.cat_file(path)), private=True)
            return copy

    def local_folder(self, key: str) -> Path:
        """The folder of this machine in which ``local_path`` finds every key below ``key``."""
        return Path(self._path(key)) if self._is_local else copies_folder()

    def _path(self, key: str) -> str:
        if not all(_NAME.fullmatch(name) for name in key.split("/")):
            raise StoreError(
                f"{key[:200]!r} is no key of the store; use plain names joined by '/'."
            )
        return f"{self._root.rstrip('/')}/{key}"


def copies_folder() -> Path:
    """The folder of this machine for copies of files of a bucket."""
    return Path(tempfile.gettempdir()) / f"maskloop-store-{os.getuid()}"


@contextmanager
def _sentences(what: str) -> Iterator[None]:
    """Turn any exception into a sentence; each file system has its own kinds of exceptions."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(
            f"{what}: it is not there; encode again or restore the store from a backup."
        ) from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StoreError(
            f"{what} ({reason}); check store_url, its space and its rights."
        ) from error
