from __future__ import annotations

import multiprocessing
import uuid
from pathlib import Path

import pytest

from pipeline.errors import SettingsError, StoreError
from pipeline.storage.store import Store


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """The same promises for a folder and for a file system without one (fsspec's own in memory)."""
    folder = request.param == "folder"
    return Store(str(tmp_path / "store") if folder else f"memory://{uuid.uuid4().hex}")


def test_what_is_written_is_read(store: Store) -> None:
    assert not store.exists("images/ab/x.png")
    store.write("images/ab/x.png", b"one")
    store.write("images/ab/x.png", b"two")
    assert store.exists("images/ab/x.png")
    assert not store.exists("images/ab")
    assert store.read("images/ab/x.png") == b"two"
    store.write("empty", b"")
    assert store.read("empty") == b""


def test_delete(store: Store) -> None:
    store.write("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert not store.exists("a/b")


def test_a_path_on_this_machine_follows_the_entry(store: Store) -> None:
    store.write("images/x.png", b"one")
    path = store.local_path("images/x.png")
    assert path.name == "x.png" and path.read_bytes() == b"one"
    store.write("images/x.png", b"three")
    assert store.local_path("images/x.png").read_bytes() == b"three"


def test_a_missing_entry_is_one_sentence(store: Store) -> None:
    for ask in (store.read, store.local_path):
        with pytest.raises(StoreError, match=r"not there.*\.$"):
            ask("no/such")


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "a/./b",
        "a/",
        ".hidden",
        "a\\..\\b",
        "a\x00b",
        "a b",
        "s3://bucket/x",
        "%2e%2e/x",
        "a\n",
        "x" * 201,
    ],
)
def test_keys_that_could_escape_are_refused(store: Store, key: str) -> None:
    for ask in (store.read, store.exists, store.delete, store.local_path):
        with pytest.raises(StoreError, match="no key"):
            ask(key)
    with pytest.raises(StoreError, match="no key"):
        store.write(key, b"")


def test_an_address_that_means_nothing() -> None:
    with pytest.raises(SettingsError, match="store_url"):
        Store("nonsense://x")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the way")
    with pytest.raises(StoreError, match=r"cannot be written.*check store_url"):
        Store(str(tmp_path / "store")).write("a", b"x")


def test_a_failed_write_leaves_the_old_entry_and_no_litter(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/b", b"old")
    (tmp_path / "a" / "c").mkdir()
    with pytest.raises(StoreError):
        store.write("a/c", b"a folder is in the way")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b", "c"]
    assert store.read("a/b") == b"old"


def _write_often(address: str, letter: bytes) -> None:
    store = Store(address)
    for _ in range(40):
        store.write("shared/key", letter * 200_000)


def test_two_processes_writing_one_key_never_mix(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    writers = [
        spawn.Process(target=_write_often, args=(str(tmp_path), letter)) for letter in (b"a", b"b")
    ]
    store = Store(str(tmp_path))
    store.write("shared/key", b"a" * 200_000)
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        data = store.read("shared/key")
        assert len(data) == 200_000 and len(set(data)) == 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["key"]
