"""Writes files that are there whole or not at all, even when the writing process is killed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".part"  # ends the name of a file that is being written, and of what a crash leaves behind


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put ``data`` at ``path``, in place of what was there.

    Args:
        path: the file; its folder is made where there is none.
        data: what the file shall hold.
        private: only the owner may read and write the file (mode 0600).

    Raises:
        OSError: the file system refused it; what was at ``path`` is still there.
    """
    with replacing(path, private=private) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends without an error.

    The bytes reach the disk before the new name does: after a crash or a power failure ``path``
    holds either what it held before or all of what was written.

    Args:
        path: the file; its folder is made where there is none.
        private: only the owner may read and write the file (mode 0600).

    Raises:
        OSError: the file system refused it; what was at ``path`` is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is this call's own, so that two processes never write into one file.
    beside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}{SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    handle = os.open(beside, flags, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk: a new name is on it only when its folder is.

    Some network file systems refuse it, and so does a folder that may not be listed. The file is
    whole and in its place all the same, so this is no error.
    """
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
