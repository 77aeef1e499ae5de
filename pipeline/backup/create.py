"""Makes a backup while everything runs.

The order makes it consistent. The record comes first, because its rows promise files in the store:
files that come later are only more than the record knows. Label Studio's database comes after the
record: annotations that it holds beyond the record are read at the next reconcile, while one that
it lacked would count as deleted.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from model.errors import MaskloopError
from model.progress import Progress, silent
from pipeline.backup import archive
from pipeline.backup.archive import Manifest, Writer, unpack, writing
from pipeline.errors import BackupError
from pipeline.record.engine import make_engine
from pipeline.record.migrations.copying import copy_sqlite, copy_to_file
from pipeline.runtime import Runtime
from pipeline.settings import SETTINGS_FILE

LABEL_STUDIO_FOLDER = "label-studio"
LABEL_STUDIO_DATABASE = "label_studio.sqlite3"
# Beside its database: uploads and avatars, and the key that its cookies are signed with.
LABEL_STUDIO_PARTS = ("media", ".env")
EMBEDDINGS = "embeddings"


def back_up(
    runtime: Runtime, path: Path, *, embeddings: bool = False, progress: Progress = silent
) -> Manifest:
    """Write a backup of everything that cannot be made again to ``path``.

    Args:
        embeddings: also the embeddings, which can be made again but take long.
        progress: counts files.

    Raises:
        BackupError: something cannot be read, or the file cannot be written.
    """
    home = runtime.settings.home.resolve()
    with (
        writing(path, home) as (writer, notes),
        tempfile.TemporaryDirectory(prefix=".backup-", dir=_made(path.parent)) as scratch,
    ):
        _add_record(runtime, writer, Path(scratch))
        _add_label_studio(home, writer, notes, Path(scratch))
        if (settings := home / SETTINGS_FILE).is_file():
            writer.add_file(archive.SETTINGS, settings)
        done = 0
        for name, file in _files_below(home / "files", archive.FILES):
            writer.add_file(name, file)
            progress(done := done + 1, None)
        for key in runtime.store.list_keys():
            if not embeddings and key.startswith(f"{EMBEDDINGS}/"):
                continue
            try:
                data = runtime.store.read(key)
            except MaskloopError:  # Removed since it was listed, so the record knows it no more.
                continue
            writer.add(archive.STORE + key, data)
            progress(done := done + 1, None)
        if not embeddings:
            notes.append("Embeddings are left out; images are encoded again after a restore.")
    with tempfile.TemporaryDirectory() as scratch:
        return unpack(path, Path(scratch), only=())  # A backup that cannot be read is found now.


def _add_record(runtime: Runtime, writer: Writer, scratch: Path) -> None:
    copy = scratch / archive.RECORD
    engine = make_engine(runtime.settings)
    try:
        copy_to_file(engine, copy)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise BackupError(
            f"The database cannot be copied ({error}); run `maskloop doctor`, and make room for a "
            "second copy of it."
        ) from error
    finally:
        engine.dispose()
    writer.add_file(archive.RECORD, copy)
    copy.unlink()


def _add_label_studio(home: Path, writer: Writer, notes: list[str], scratch: Path) -> None:
    """Add the Label Studio that ``maskloop up`` keeps in the home folder."""
    folder = home / LABEL_STUDIO_FOLDER
    database = folder / LABEL_STUDIO_DATABASE
    if not database.is_file():
        notes.append(
            "Label Studio is not in this backup, because it does not run from the home folder; "
            "back up its database and its files with its own tools, after this backup."
        )
        return
    copy = scratch / LABEL_STUDIO_DATABASE
    try:
        copy_sqlite(database, copy)
    except (sqlite3.Error, OSError) as error:
        raise BackupError(
            f"Label Studio's database cannot be copied ({error}); look at {database}."
        ) from error
    writer.add_file(archive.LABEL_STUDIO + LABEL_STUDIO_DATABASE, copy)
    copy.unlink()
    for part in LABEL_STUDIO_PARTS:
        for name, file in _files_below(folder / part, f"{archive.LABEL_STUDIO}{part}/"):
            writer.add_file(name.rstrip("/"), file)


def _files_below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    """(name of the member, path) of each file below a folder, or of the one file it is."""
    if folder.is_file():
        yield prefix, folder
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield prefix + str(path.relative_to(folder)), path


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
