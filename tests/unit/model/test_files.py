"""A written file is there whole or not at all, whoever writes it, and leaves nothing beside it."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.files import SUFFIX, replacing, write_file


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """Modes below are those under the usual umask, whatever this machine's is."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_writes_the_bytes_and_makes_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_file(path, b"first")
    assert path.read_bytes() == b"first"
    write_file(path, b"")
    assert path.read_bytes() == b""
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    with replacing(path) as file:
        file.write(b"new and longer")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
def test_after_an_error_the_old_file_is_there_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_file(old, b"old")
    for path in (old, new):
        with pytest.raises(error), replacing(path) as file:
            file.write(b"half")
            raise error
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_what_cannot_take_the_name_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_file(folder, b"data")
    assert list(tmp_path.iterdir()) == [folder]


KILLED = """
import os, signal, sys
from pathlib import Path
from model.files import replacing

with replacing(Path(sys.argv[1])) as file:
    file.write(b"half of the new")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for before in (None, b"old"):
        if before is not None:
            write_file(path, before)
        done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=60)
        assert done.returncode == -signal.SIGKILL
        assert (path.read_bytes() if path.exists() else None) == before
    # What a kill leaves behind is known by its name, and no later write trips over it.
    left = [each for each in tmp_path.iterdir() if each != path]
    assert len(left) == 2
    assert all(each.name.startswith(".") and each.name.endswith(SUFFIX) for each in left)
    write_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_modes(tmp_path: Path) -> None:
    public, private = tmp_path / "public", tmp_path / "private"
    write_file(public, b"data")
    assert mode(public) == 0o644
    with replacing(private, private=True) as file:
        (scratch,) = (each for each in tmp_path.iterdir() if each.name.endswith(SUFFIX))
        assert mode(scratch) == 0o600  # also while it is written
        file.write(b"secret")
    assert mode(private) == 0o600
    public.chmod(0o666)
    write_file(public, b"data", private=True)
    assert mode(public) == 0o600  # of the new file, not of the one before


def test_two_writers_at_once_leave_the_file_of_one_of_them(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([i]) * 200_000 for i in range(2)]
    seen: list[bytes] = []
    errors: list[BaseException] = []

    def write(data: bytes) -> None:
        try:
            for _ in range(20):
                write_file(path, data)
                seen.append(path.read_bytes())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(data in contents for data in seen)
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_that_overlap_each_write_their_own_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path) as first, replacing(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # the one that ended last
    assert list(tmp_path.iterdir()) == [path]


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    write_file(path, b"data")
    assert path.read_bytes() == b"data"


def test_a_folder_that_cannot_be_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems answer EINVAL; the file is in its place all the same."""
    real = os.fsync

    def only_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", only_files)
    write_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
