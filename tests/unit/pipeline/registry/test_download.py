"""Tests of the module ``download``.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import gdown
import pytest
import requests

from model.errors import CheckpointError
from pipeline.errors import BusyError
from pipeline.registry import download as downloading
from pipeline.registry.download import alone, fetch_drive, fetch_url, shown
from tests.services.file_server import DATA, FileServer, server

__all__ = ["server"]  # a fixture


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_arrives_whole_and_says_how_far_it_is(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "a"
    fetch_url(server.url, target, lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert left_behind(target.parent) == {"a"}


def test_a_connection_that_drops_is_taken_up_where_it_dropped(
    server: FileServer, tmp_path: Path
) -> None:
    server.drop_after = [200_000, 300_000, 0, 1]
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    starts = [int(each.removeprefix("bytes=")[:-1]) for each in server.asked if each]
    assert server.asked[0] is None and len(starts) == 4
    assert starts == sorted(starts) and 0 < starts[0] <= 200_000 < starts[-1] <= 500_001


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(
    server: FileServer, tmp_path: Path
) -> None:
    server.drop_after = [400_000] + [0] * downloading.TRIES
    with pytest.raises(CheckpointError, match="goes on where this ended"):
        fetch_url(server.url, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    server.drop_after, server.asked = [], []
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    assert len(server.asked) == 1 and server.asked[0] is not None
    assert left_behind(tmp_path) == {"a"}


@pytest.mark.parametrize("manner", ["no ranges", "no validator", "weak validator"])
def test_a_server_that_cannot_resume_sends_it_again(
    server: FileServer, tmp_path: Path, manner: str
) -> None:
    server.ranges = manner != "no ranges"
    server.etag = {"no validator": None, "weak validator": 'W/"one"'}.get(manner, '"one"')
    server.drop_after = [200_000, 300_000]
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    if manner != "no ranges":
        assert server.asked == [None, None, None]


def test_a_date_tells_a_file_from_a_later_one_too(server: FileServer, tmp_path: Path) -> None:
    server.etag, server.headers = None, {"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
    server.drop_after = [200_000]
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked[1] is not None


def test_a_file_that_changed_meanwhile_is_not_patched_together(
    server: FileServer, tmp_path: Path
) -> None:
    server.drop_after = [400_000] + [0] * downloading.TRIES
    with pytest.raises(CheckpointError):
        fetch_url(server.url, tmp_path / "a")
    server.drop_after, server.data, server.etag = [], DATA[::-1], '"two"'
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("told_by", ["etag", "size", "date"])
def test_a_file_that_changed_is_not_patched_together_by_a_server_that_ignores_if_range(
    server: FileServer, tmp_path: Path, told_by: str
) -> None:
    server.if_range = False
    if told_by == "date":
        server.etag, server.headers = None, {"Last-Modified": "Sat, 21 Nov 2026 10:00:00 GMT"}
    server.drop_after = [400_000] + [0] * downloading.TRIES
    with pytest.raises(CheckpointError):
        fetch_url(server.url, tmp_path / "a")
    server.drop_after, server.asked, server.data = [], [], DATA[::-1]
    if told_by == "etag":
        server.etag = '"two"'
    elif told_by == "size":
        server.data += b"more"
    else:
        server.headers = {"Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT"}
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == server.data
    assert server.asked[0] is not None and server.asked[1:] == [None]
    assert left_behind(tmp_path) == {"a"}


def test_a_process_that_dies_as_a_changed_file_begins_leaves_nothing_to_patch(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.part").write_bytes(DATA[:400_000])
    (tmp_path / "a.part.validator").write_text('"zero"')
    real = downloading._remember

    def die(*arguments: Any) -> None:
        real(*arguments)
        raise KeyboardInterrupt

    server.data = DATA[::-1]
    with monkeypatch.context() as patch:
        patch.setattr(downloading, "_remember", die)
        with pytest.raises(KeyboardInterrupt):
            fetch_url(server.url, tmp_path / "a")
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == server.data


def test_a_part_that_is_whole_is_taken(server: FileServer, tmp_path: Path) -> None:
    """Its process died before it gave the part its name."""
    (tmp_path / "a.part").write_bytes(DATA)
    (tmp_path / "a.part.validator").write_text('"one"')
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked == [f"bytes={len(DATA) - 1}-"]  # one byte, to learn that it is the file
    assert left_behind(tmp_path) == {"a"}


def test_a_server_that_sends_a_range_in_pieces_is_asked_for_all_of_them(
    server: FileServer, tmp_path: Path
) -> None:
    server.drop_after, server.piece = [200_000], 100_000
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


def test_an_etag_that_no_header_may_hold_is_not_kept(server: FileServer, tmp_path: Path) -> None:
    server.etag, server.drop_after = '"\xe9"', [200_000]
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    assert server.asked == [None, None]
    (tmp_path / "b.part").write_bytes(DATA[:1000])
    (tmp_path / "b.part.validator").write_bytes(b'"\xff\xe9"')  # an earlier release kept them
    fetch_url(server.url, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == DATA


def test_a_partial_file_longer_than_the_whole_begins_anew(
    server: FileServer, tmp_path: Path
) -> None:
    (tmp_path / "a.part").write_bytes(DATA + DATA)
    (tmp_path / "a.part.validator").write_text('"one"')
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA


def test_a_server_that_is_busy_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    fetch_url(server.url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == DATA
    server.statuses = [500] * downloading.TRIES
    with pytest.raises(CheckpointError, match="answered 500"):
        fetch_url(server.url, tmp_path / "a")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server: FileServer, tmp_path: Path, status: int) -> None:
    server.statuses = [status]
    with pytest.raises(CheckpointError, match=rf"answered {status}.*\.$") as caught:
        fetch_url(server.url, tmp_path / "a")
    assert "secret" not in str(caught.value)
    assert len(server.asked) == 1


def test_a_page_is_no_file(server: FileServer, tmp_path: Path) -> None:
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(CheckpointError, match="is a web page"):
        fetch_url(server.url, tmp_path / "a")
    assert left_behind(tmp_path) == set()


@pytest.mark.parametrize("says_so", [True, False])
def test_a_file_without_end_is_given_up(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says_so: bool
) -> None:
    monkeypatch.setattr(downloading, "MAX_BYTES", 100_000)
    if not says_so:
        server.headers = {"Content-Length": ""}
    with pytest.raises(CheckpointError, match="no SegNext"):
        fetch_url(server.url, tmp_path / "a")
    assert left_behind(tmp_path) == set()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/a.pth", "http://nowhere.invalid/a.pth", "http://[/a", "http://"]
)
def test_no_network_and_no_address_are_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(downloading, "PAUSE", 0.001)
    with pytest.raises(CheckpointError, match=r"cannot be fetched .*\.$"):
        fetch_url(url, tmp_path / "a")


def test_a_file_is_held_by_one_process_and_nothing_of_that_stays(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a"
    with (
        alone(target),
        pytest.raises(BusyError, match="wait until it is done"),
        alone(target),
    ):
        pytest.fail("two hold it")
    with alone(target):  # who was refused has not let it go, and who held it has
        pass
    assert left_behind(tmp_path) == set()
    with alone(target):
        target.with_name("a.part").write_text("to go on from")
    assert left_behind(target.parent) == {"a.part"}


def test_a_lock_that_its_holder_removes_meanwhile_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process opens the lock, then the first removes it, then the second locks it."""
    lock, real = tmp_path / "a.lock", fcntl.flock

    def late(*arguments: Any) -> None:
        lock.unlink()
        real(*arguments)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(BusyError, match="wait until it is done"), alone(tmp_path / "a"):
        pytest.fail("it holds what nobody else can see")


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    with pytest.raises(CheckpointError, match="Nothing can be written"), alone(tmp_path / "home/a"):
        pytest.fail("there is no such folder")


def test_an_address_is_shown_without_its_secrets() -> None:
    assert shown("https://me:pass@host/a.pth?signature=x#y") == "https://host/a.pth"


# --- Google Drive, by gdown ---


def drive_on_loopback(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """gdown itself runs; only the address it makes of the id leads to a server here."""
    asked: list[dict[str, Any]] = []
    real = gdown.download

    def on_loopback(*, id: str, **options: Any) -> Any:
        asked.append({"id": id, **options})
        return real(url=server.url.partition("?")[0], **options)

    monkeypatch.setattr(gdown, "download", on_loopback)
    monkeypatch.setattr(downloading, "DRIVE_RETRIES", 0)
    return asked


def test_a_drive_file_is_fetched_by_gdown_and_resumed(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = drive_on_loopback(server, monkeypatch)
    seen: list[tuple[int, int | None]] = []
    server.drop_after = [700_000]  # gdown keeps pieces of half a megabyte
    with pytest.raises(CheckpointError, match=r"uc\?id=some-id cannot be fetched"):
        fetch_drive("some-id", tmp_path / "a")
    fetch_drive("some-id", tmp_path / "a", lambda done, total: seen.append((done, total)))
    assert (tmp_path / "a").read_bytes() == DATA
    assert [each["id"] for each in asked] == ["some-id"] * 2
    assert asked[0]["output"] == str(tmp_path / "a") and asked[0]["resume"] is True
    assert server.asked[-1] is not None  # the second call asked for the rest only
    assert seen[-1] == (len(DATA), len(DATA))


@pytest.mark.parametrize("size", [300_000, 524_288])
def test_a_drive_file_that_became_shorter_is_fetched_anew(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    drive_on_loopback(server, monkeypatch)
    server.drop_after = [700_000]
    with pytest.raises(CheckpointError):
        fetch_drive("some-id", tmp_path / "a")
    assert left_behind(tmp_path) != set()
    server.data, server.etag = DATA[:size], '"two"'
    fetch_drive("some-id", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == server.data
    assert left_behind(tmp_path) == {"a"}


def test_a_drive_file_that_cannot_be_had_now_keeps_what_came(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive_on_loopback(server, monkeypatch)
    server.drop_after, kept = [700_000, 0, 0], []
    for _ in range(2):
        with pytest.raises(CheckpointError):
            fetch_drive("some-id", tmp_path / "a")
        kept.append(sorted((path.name, path.stat().st_size) for path in tmp_path.glob("*.part")))
    assert len(kept[0]) == 1 and kept[0] == kept[1]


def test_a_drive_file_that_is_too_large_leaves_nothing(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drive_on_loopback(server, monkeypatch)
    monkeypatch.setattr(downloading, "MAX_BYTES", 100_000)
    with pytest.raises(CheckpointError, match="no SegNext"):
        fetch_drive("some-id", tmp_path / "a")
    assert left_behind(tmp_path) == set()


def test_a_drive_that_answers_with_a_page_is_a_sentence(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = b'<html><p class="uc-error-subcaption">Too many users have viewed it.</p></html>'
    server.data, server.headers = page, {"Content-Type": "text/html"}
    real = requests.Session.get

    def to_loopback(session: requests.Session, url: str, **options: Any) -> requests.Response:
        assert url == "https://drive.google.com/uc?id=some-id"
        return real(session, server.url, **options)

    monkeypatch.setattr(requests.Session, "get", to_loopback)
    with pytest.raises(CheckpointError, match=r"some-id cannot.*Too many users.*browser.*\.$"):
        fetch_drive("some-id", tmp_path / "a")


def test_a_drive_out_of_reach_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # refuses at once, wherever this runs
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(downloading, "DRIVE_RETRIES", 0)
    with pytest.raises(CheckpointError, match=r"drive\.google\.com.*browser.*\.$"):
        fetch_drive("1G_m9_sVYVD2MBDf5ulrAUz-iSvi8bQfZ", tmp_path / "a")
    assert not (tmp_path / "a").exists()
