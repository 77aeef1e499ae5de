"""Puts a backup into a new home folder, also on another machine or at another path."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from model.files import write_file
from pipeline.backup import archive
from pipeline.backup.archive import Manifest, copy_tree_into, unpack
from pipeline.backup.create import LABEL_STUDIO_DATABASE, LABEL_STUDIO_FOLDER
from pipeline.errors import BackupError
from pipeline.images.catalog import image_key
from pipeline.record import schema
from pipeline.record.engine import make_engine
from pipeline.record.migrations.copying import fill_from_file, integrity, is_empty
from pipeline.record.tables import Image
from pipeline.settings import HOME_VARIABLE, SETTINGS_FILE, Settings, load_settings
from pipeline.storage.store import Store

IN_THE_WAY = (SETTINGS_FILE, "maskloop.sqlite3", "store", LABEL_STUDIO_FOLDER)


@dataclass(frozen=True)
class Contents:
    """What a backup holds, counted; ``problems`` are sentences about what is wrong in it."""

    manifest: Manifest
    images: int
    accepted_masks: int
    versions: int
    problems: tuple[str, ...]


def verify(path: Path) -> Contents:
    """Read a whole backup and check that a restore would succeed; nothing is kept.

    Raises:
        BackupError: it is damaged, incomplete, or no backup.
    """
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=path.resolve().parent) as scratch:
        folder = Path(scratch)
        wanted = (archive.RECORD, archive.LABEL_STUDIO + LABEL_STUDIO_DATABASE)
        return _contents(unpack(path, folder, only=wanted), folder)


def restore(path: Path, home: Path) -> tuple[Contents, Settings]:
    """Put a backup into a home folder that is empty; returns what it held, and its settings.

    Nothing is started. Where the settings name a database or a store elsewhere, that is filled too
    and must be empty.

    Raises:
        BackupError: the backup is damaged, or there is something in the way.
        SettingsError: its settings cannot be used here.
    """
    home = home.resolve()
    in_the_way = [name for name in IN_THE_WAY if (home / name).exists()]
    if in_the_way:
        raise BackupError(
            f"{home} already holds {', '.join(in_the_way)}; name a new folder with "
            f"{HOME_VARIABLE}, so that nothing is overwritten."
        )
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    os.environ[HOME_VARIABLE] = str(home)
    with tempfile.TemporaryDirectory(prefix=".restore-", dir=home) as scratch:
        folder = Path(scratch)
        manifest = unpack(path, folder)
        contents = _contents(manifest, folder)
        if contents.problems:
            raise BackupError(f"{path} cannot be restored. {' '.join(contents.problems)}")
        _place_settings(manifest, folder, home)
        settings = load_settings().model_copy(update={"home": home})
        _fill_database(settings, folder / archive.RECORD)
        store = Store(settings.store_address)
        for file in sorted((folder / archive.STORE).rglob("*")):
            if file.is_file():
                key = str(file.relative_to(folder / archive.STORE))
                store.write(key, file.read_bytes())
        copy_tree_into(folder / archive.FILES, home / "files")
        _place_label_studio(manifest, folder / archive.LABEL_STUDIO, home)
    return contents, settings


def _contents(manifest: Manifest, folder: Path) -> Contents:
    problems = []
    label_studio = folder / archive.LABEL_STUDIO / LABEL_STUDIO_DATABASE
    try:
        with integrity(folder / archive.RECORD) as record:
            images = record.execute("SELECT sha256, extension FROM image").fetchall()
            # The weights of a refused version may have been removed.
            needed = "SELECT key FROM model_version WHERE status != 'refused'"
            keys = [key for (key,) in record.execute(needed)]
            (versions,) = record.execute("SELECT COUNT(*) FROM model_version").fetchone()
            (masks,) = record.execute("SELECT COUNT(*) FROM region").fetchone()
        if label_studio.exists():
            with integrity(label_studio):
                pass
    except sqlite3.Error as error:
        raise BackupError(
            f"A database in the backup is damaged ({error}); take another."
        ) from error
    keys += [image_key(Image(sha256=sha256, extension=extension)) for sha256, extension in images]
    missing = [key for key in keys if archive.STORE + key not in manifest.members]
    if missing:
        problems.append(
            f"{len(missing)} files that the record names are not in it, {missing[0]} among them."
        )
    return Contents(manifest, len(images), masks, versions, tuple(problems))


def _place_settings(manifest: Manifest, folder: Path, home: Path) -> None:
    """Write the settings, with paths into the old home folder turned into paths into the new."""
    source = folder / archive.SETTINGS
    if source.is_file():
        old = re.escape(manifest.home) + r"""(?=["'/])"""
        text = re.sub(old, lambda _: str(home), source.read_text(encoding="utf-8"))
        write_file(home / SETTINGS_FILE, text.encode(), private=True)


def _fill_database(settings: Settings, copy: Path) -> None:
    """Fill the database of the settings from a copy, which is brought to the newest schema."""
    schema.upgrade(Settings(home=settings.home, database_url=f"sqlite:///{copy}"), copy=False)
    schema.upgrade(settings, copy=False)
    engine = make_engine(settings)
    try:
        if not is_empty(engine):
            raise BackupError(
                "The database of the settings already holds a record; empty it, or name another in "
                "database_url."
            )
        fill_from_file(copy, engine)
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise BackupError(f"The database does not take the record ({error}).") from error
    finally:
        engine.dispose()


def _place_label_studio(manifest: Manifest, source: Path, home: Path) -> None:
    if not source.is_dir():
        return
    target = home / LABEL_STUDIO_FOLDER
    shutil.copytree(source, target, dirs_exist_ok=True)
    # A local storage of Label Studio holds the whole path of its folder.
    with closing(sqlite3.connect(target / LABEL_STUDIO_DATABASE)) as database, database:
        names = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'io_storages_local%'"
        ).fetchall()
        for (table,) in names:
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            if "path" in columns:
                database.execute(
                    f"UPDATE {table} SET path = ? || substr(path, ?) "
                    "WHERE path = ? OR path LIKE ? || '/%'",
                    (str(home), len(manifest.home) + 1, manifest.home, manifest.home),
                )
