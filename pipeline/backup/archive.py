"""The file of a backup: a tar file whose last member names every other one with its SHA-256."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO

from model.files import replacing
from pipeline.errors import BackupError

MANIFEST = "manifest.json"
FORMAT = 1  # of the file; a change that an older maskloop cannot read raises it
CHUNK = 1 << 20  # bytes

# Names of members, and beginnings of names.
RECORD = "record.sqlite3"
SETTINGS = "maskloop.toml"
STORE = "store/"
FILES = "files/"
LABEL_STUDIO = "label-studio/"


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    Attributes:
        home: the home folder it was made of, whose path may stand in settings and addresses.
        notes: sentences about what is not in it.
        members: SHA-256 in hex of each member, by name.
    """

    format: int
    made_at: str
    home: str
    notes: tuple[str, ...] = ()
    members: dict[str, str] = field(default_factory=dict)


class Writer:
    """Adds members to a backup that is being written."""

    def __init__(self, file: tarfile.TarFile) -> None:
        self._file = file
        self.members: dict[str, str] = {}

    def add(self, name: str, data: bytes) -> None:
        """Add a member with these bytes."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o600
        entry.mtime = int(datetime.now(UTC).timestamp())
        self._file.addfile(entry, io.BytesIO(data))
        self.members[name] = hashlib.sha256(data).hexdigest()

    def add_file(self, name: str, path: Path) -> None:
        """Add a file; it must not change while it is read."""
        entry = tarfile.TarInfo(name)
        entry.mode = 0o600
        with path.open("rb") as source:
            # The size that was looked up last counts: a file may have grown since it was listed.
            entry.size = path.stat().st_size
            entry.mtime = int(path.stat().st_mtime)
            reader = _Hashing(source)
            self._file.addfile(entry, reader)
        self.members[name] = reader.digest.hexdigest()


@contextmanager
def writing(path: Path, home: Path) -> Iterator[tuple[Writer, list[str]]]:
    """A backup that takes its place at ``path`` when the block ends without an error.

    The second value takes notes for the manifest.

    Raises:
        BackupError: the file cannot be written.
    """
    notes: list[str] = []
    try:
        with (
            replacing(path, private=True) as target,
            tarfile.open(fileobj=target, mode="w") as file,
        ):
            writer = Writer(file)
            yield writer, notes
            made_at = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = Manifest(FORMAT, made_at, str(home), tuple(notes), writer.members)
            writer.add(MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
    except OSError as error:
        raise BackupError(
            f"The backup cannot be written to {path} ({error.strerror or error}); make room, or "
            "name another file."
        ) from error


def unpack(path: Path, folder: Path, *, only: Collection[str] | None = None) -> Manifest:
    """Unpack a backup into an empty folder, and check every member.

    Args:
        only: names of the members to unpack; None: all. The others are only checked.

    Raises:
        BackupError: it is damaged, incomplete, from a newer maskloop, or no backup at all.
    """
    digests: dict[str, str] = {}
    try:
        with tarfile.open(path) as file:
            for entry in file:
                # The filter refuses names that lead out of the folder, links and devices.
                safe = tarfile.data_filter(entry, str(folder))
                source = file.extractfile(entry)
                if source is None or safe is None or entry.name in digests:
                    raise tarfile.ReadError(f"it holds {entry.name!r}, which no backup does")
                unpacked = only is None or entry.name in {*only, MANIFEST}
                digests[entry.name] = _take(source, folder / entry.name if unpacked else None)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BackupError(
            f"{path} cannot be read as a backup ({error}); take another one."
        ) from error
    manifest = _read_manifest(path, folder / MANIFEST)
    digests.pop(MANIFEST, None)
    faults = sorted(
        name
        for name in manifest.members.keys() | digests.keys()
        if manifest.members.get(name) != digests.get(name)
    )
    if faults:
        raise BackupError(
            f"{path} is damaged: {len(faults)} of its {len(manifest.members)} files are not as "
            f"they were written, {faults[0]} among them; take another backup."
        )
    return manifest


def _take(source: IO[bytes], target: Path | None) -> str:
    """Read a member to its end, and write it to ``target`` if there is one; returns its SHA-256."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        file = None
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(target.open("wb"))
        while data := source.read(CHUNK):
            digest.update(data)
            if file is not None:
                file.write(data)
    return digest.hexdigest()


def _read_manifest(path: Path, manifest: Path) -> Manifest:
    try:
        values: dict[str, Any] = json.loads(manifest.read_text())
        if values["format"] > FORMAT:
            raise BackupError(f"{path} was made by a newer maskloop; install that one.")
        values["notes"] = tuple(values["notes"])
        return Manifest(**values)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BackupError(
            f"{path} is no whole backup of maskloop ({error or type(error).__name__}); take "
            "another one."
        ) from None


class _Hashing:
    """Reads a file and computes its SHA-256 on the way."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.digest.update(data)
        return data


def copy_tree_into(source: Path, target: Path) -> None:
    """Copy the files below ``source`` to the same places below ``target``; there may be none."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
