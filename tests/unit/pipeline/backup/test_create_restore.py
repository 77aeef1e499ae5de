"""Backups: taken from a running loop, checked, and put into another folder or database."""

from __future__ import annotations

import io
import shutil
import sqlite3
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from typer.testing import CliRunner

from pipeline.backup import archive
from pipeline.backup.create import back_up
from pipeline.backup.restore import restore, verify
from pipeline.cli.app import app
from pipeline.errors import BackupError
from pipeline.images.catalog import image_key
from pipeline.record import images, interactions
from pipeline.record.tables import Base, Event, Image, ModelVersion, Region
from pipeline.runtime import Runtime
from pipeline.settings import HOME_VARIABLE, Settings, load_settings
from tests.services.postgresql import new_database

OLD_HOME = Path(__file__).parents[3] / "data" / "home-0002.zip"
MASKS = 7


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with accepted masks, and what Label Studio keeps there."""
    folder = tmp_path / "home"
    with zipfile.ZipFile(OLD_HOME) as packed:
        packed.extractall(folder)
    (folder / "files").mkdir(exist_ok=True)
    (folder / "files" / "mine.png").write_bytes(b"a file that people put there")
    studio = folder / "label-studio"
    (studio / "media" / "upload" / "1").mkdir(parents=True)
    (studio / "media" / "upload" / "1" / "a.png").write_bytes(b"an upload")
    (studio / ".env").write_text("SECRET_KEY=x")
    with sqlite3.connect(studio / "label_studio.sqlite3") as database:
        database.execute("CREATE TABLE io_storages_localfilesmixin (id INTEGER, path TEXT)")
        rows = [(1, f"{folder}/files/set"), (2, f"{folder}"), (3, f"{folder}-other/x")]
        database.executemany("INSERT INTO io_storages_localfilesmixin VALUES (?, ?)", rows)
    with (folder / "maskloop.toml").open("a") as settings:
        settings.write(f'\n[images]\nfiles_root = "{folder}/files"\n')
    monkeypatch.setenv(HOME_VARIABLE, str(folder))
    return folder


@pytest.fixture
def runtime(home: Path) -> Iterator[Runtime]:
    with Runtime(load_settings().model_copy(update={"home": home}), migrate=True) as opened:
        yield opened


def counts(runtime: Runtime) -> dict[str, int]:
    with runtime.sessions() as session:
        return {
            table.name: session.scalar(select(func.count()).select_from(table)) or 0
            for table in Base.metadata.sorted_tables
        }


def test_a_restored_home_holds_all_of_the_old_one(
    runtime: Runtime, home: Path, tmp_path: Path
) -> None:
    before = counts(runtime)
    manifest = back_up(runtime, tmp_path / "backup.tar")
    assert any("Embeddings" in note for note in manifest.notes)
    assert (tmp_path / "backup.tar").stat().st_mode & 0o077 == 0
    assert not list(tmp_path.glob(".*"))
    shutil.move(home, tmp_path / "gone")  # nothing of it may be needed

    contents, settings = restore(tmp_path / "backup.tar", tmp_path / "elsewhere")

    new = tmp_path / "elsewhere"
    assert (contents.accepted_masks, contents.images, contents.versions) == (MASKS, 11, 2)
    assert settings.images.files_root == new / "files"
    assert (new / "files" / "mine.png").read_bytes() == b"a file that people put there"
    assert (new / "label-studio" / "media" / "upload" / "1" / "a.png").is_file()
    assert (new / "label-studio" / ".env").is_file()
    with sqlite3.connect(new / "label-studio" / "label_studio.sqlite3") as database:
        rows = database.execute("SELECT path FROM io_storages_localfilesmixin ORDER BY id")
        assert [path for (path,) in rows] == [f"{new}/files/set", f"{new}", f"{home}-other/x"]
    with Runtime(settings) as restored:
        assert counts(restored) == before
        version, _ = restored.serving.current()
        assert version.name == "base"
        with restored.sessions() as session:
            for number in images.shown(session):
                image = images.get(session, number)
                assert restored.store.exists(image_key(image))
            assert interactions.count(session) == 14


def test_it_can_be_taken_while_others_write(runtime: Runtime, tmp_path: Path) -> None:
    ended = threading.Event()

    def write() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            with runtime.sessions.begin() as session:
                session.add(Event(key=f"load-{number}", action="TEST", payload={}))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            back_up(runtime, tmp_path / f"{number}.tar")
    finally:
        ended.set()
        writer.join()
    for number in range(3):
        assert verify(tmp_path / f"{number}.tar").problems == ()


@pytest.mark.integration
def test_it_goes_from_one_kind_of_database_to_the_other_and_back(
    runtime: Runtime, tmp_path: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = counts(runtime)
    back_up(runtime, tmp_path / "first.tar")
    address = new_database(postgresql, "restored_here")
    monkeypatch.setenv("MASKLOOP_DATABASE_URL", address)
    _, settings = restore(tmp_path / "first.tar", tmp_path / "second")
    assert settings.sql_url == address
    with Runtime(settings) as there:
        assert counts(there) == before
        with there.sessions.begin() as session:  # Numbers go on after those that were restored.
            session.add(Event(key="new", action="TEST", payload={}))
        before["event"] += 1
        back_up(there, tmp_path / "second.tar", embeddings=True)
    with pytest.raises(BackupError, match="already holds a record"):
        restore(tmp_path / "second.tar", tmp_path / "third")
    monkeypatch.delenv("MASKLOOP_DATABASE_URL")
    _, settings = restore(tmp_path / "second.tar", tmp_path / "fourth")
    with Runtime(settings) as back:
        assert counts(back) == before
        with back.sessions() as session:
            masks = session.scalars(select(Region.mask_sha256)).all()
            assert session.scalar(select(Image.sha256)) and len(masks) == MASKS


def test_a_home_that_holds_something_is_left_alone(
    runtime: Runtime, home: Path, tmp_path: Path
) -> None:
    back_up(runtime, tmp_path / "backup.tar")
    before = sorted(home.rglob("*"))
    with pytest.raises(BackupError, match=r"already holds maskloop\.toml"):
        restore(tmp_path / "backup.tar", home)
    assert sorted(home.rglob("*")) == before


def changed(path: Path, target: Path, name: str, data: bytes | None) -> Path:
    """A copy of a backup in which one member holds other bytes, or is missing."""
    with tarfile.open(path) as source, tarfile.open(target, "w") as copy:
        for entry in source:
            content = source.extractfile(entry)
            assert content is not None
            if entry.name != name:
                copy.addfile(entry, content)
            elif data is not None:
                entry.size = len(data)
                copy.addfile(entry, io.BytesIO(data))
    return target


def test_a_damaged_backup_is_one_sentence_and_restores_nothing(
    runtime: Runtime, tmp_path: Path
) -> None:
    good = tmp_path / "good.tar"
    manifest = back_up(runtime, good)
    image = next(name for name in manifest.members if name.startswith("store/images/"))
    cut = tmp_path / "cut.tar"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "text.tar").write_text("no backup")
    outside = tmp_path / "outside.tar"
    with tarfile.open(outside, "w") as file:
        file.addfile(tarfile.TarInfo("../outside"))
    link = tmp_path / "link.tar"
    with tarfile.open(link, "w") as file:
        entry = tarfile.TarInfo("link")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(entry)
    newer = archive.MANIFEST, b'{"format": 99}'
    for path, words in (
        (cut, "cannot be read as a backup|no whole backup"),
        (tmp_path / "text.tar", "cannot be read as a backup"),
        (tmp_path / "nowhere.tar", "cannot be read as a backup"),
        (outside, "cannot be read as a backup"),
        (link, "cannot be read as a backup"),
        (changed(good, tmp_path / "a.tar", image, b"other"), f"damaged: .*{image}"),
        (changed(good, tmp_path / "b.tar", image, None), f"damaged: .*{image}"),
        (changed(good, tmp_path / "c.tar", archive.RECORD, b"x" * 5000), "is damaged"),
        (changed(good, tmp_path / "d.tar", archive.MANIFEST, None), "no whole backup"),
        (changed(good, tmp_path / "e.tar", *newer), "newer maskloop"),
    ):
        with pytest.raises(BackupError, match=words):
            verify(path)
        with pytest.raises(BackupError, match=words):
            restore(path, tmp_path / "new")
        assert list((tmp_path / "new").glob("*")) == []
    assert not (tmp_path.parent / "outside").exists()


def test_files_that_the_record_names_and_the_backup_lacks_are_told(
    runtime: Runtime, tmp_path: Path
) -> None:
    with runtime.sessions() as session:
        version = session.scalars(select(ModelVersion)).first()
        assert version is not None
    runtime.store.delete(version.key)
    back_up(runtime, tmp_path / "backup.tar")
    (problem,) = verify(tmp_path / "backup.tar").problems
    assert version.key in problem


def test_the_commands_say_what_they_did(
    runtime: Runtime, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = CliRunner().invoke
    file = str(tmp_path / "backup.tar")
    made = run(app, ["backup", file])
    assert made.exit_code == 0, made.output
    assert "Embeddings are left out" in made.stdout
    checked = run(app, ["verify", file])
    assert (checked.exit_code, f"{MASKS} accepted masks" in checked.stdout) == (0, True)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "new"))
    restored = run(app, ["restore", file])
    assert restored.exit_code == 0, restored.output
    assert "`maskloop up` goes on with it." in restored.stdout


def test_a_copy_is_kept_before_an_upgrade_and_old_ones_go(home: Path) -> None:
    with sqlite3.connect(home / "maskloop.sqlite3") as database:
        masks = database.execute("SELECT COUNT(*) FROM region").fetchone()
    copies = home / "backups"
    copies.mkdir()
    for number in range(4):
        (copies / f"record-000{number}-x.sqlite3").write_text("older")
    with Runtime(load_settings(), migrate=True) as runtime:
        assert runtime.sessions
    found = sorted(path.name for path in copies.iterdir())
    assert len(found) == 3
    (kept,) = [name for name in found if name.startswith("record-0002-2")]
    with sqlite3.connect(copies / kept) as database:
        assert database.execute("SELECT COUNT(*) FROM region").fetchone() == masks
        assert database.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
    with Runtime(load_settings(), migrate=True) as runtime:
        assert runtime.sessions
    assert sorted(path.name for path in copies.iterdir()) == found  # Nothing to copy now.


def test_a_destroyed_page_says_how_to_go_back(runtime: Runtime, home: Path) -> None:
    assert runtime.sessions
    runtime.close()
    file = home / "maskloop.sqlite3"
    damaged = bytearray(file.read_bytes())
    damaged[0:4096] = b"\xff" * 4096
    file.write_bytes(damaged)
    settings: Settings = load_settings()
    result = CliRunner().invoke(app, ["upgrade"])
    assert result.exit_code == 1
    assert "maskloop restore" in str(result.exception)
    assert str(settings.home) in str(result.exception)
