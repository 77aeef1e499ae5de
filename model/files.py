"""Files that are there whole or not at all, whatever process writes them or dies while it does."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".part"  # of a file that is being written; what a crash leaves behind ends in it


def write_file(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put ``data`` at ``path``, in place of what was there.

    Args:
        private: only the owner may read and write the file (mode 0600).

    Raises:
        OSError: the file system refused it; what was at ``path`` is still there.
    """
    with replacing(path, private=private) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block ends without an error.

    The bytes are on the disk before the name is: after a crash or a power failure ``path`` holds
    either what it held before or all of what was written. The folder is made where there is none.

    Args:
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
        _sync_folder(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """The new name itself is on the disk only when its folder is."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
