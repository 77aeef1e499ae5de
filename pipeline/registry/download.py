"""Fetching large files: resumed where a try ended, in this process or an earlier one."""

from __future__ import annotations

import fcntl
import glob
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from model.errors import CheckpointError
from model.files import write_file
from model.progress import Progress, silent

MAX_BYTES = 8_000_000_000  # the largest ViT in single precision is well under half of it
TRIES = 5  # in a row that bring nothing new
DRIVE_RETRIES = 3
PAUSE = 1.0  # seconds after the first of them; doubles
TIMEOUT = 30.0  # seconds without a byte


class _TryAgainError(Exception):
    """A trouble that may be gone at the next try."""


def fetch_drive(file_id: str, target: Path, progress: Progress = silent) -> None:
    """Fetch a public file of Google Drive by its id; ``progress`` counts bytes.

    What has come stays beside ``target``, which the caller holds (``alone``), and the next call
    goes on from there. gdown cannot tell whether the file changed in between: who reads it must
    notice, as the sums in a .pth let one.

    Raises:
        CheckpointError: it cannot be had now, or is too large.
    """

    def report(done: int, total: int | None) -> None:
        _check_size(max(done, total or 0), "The file")
        progress(done, total)

    resumes = bool(_drive_parts(target))
    try:
        try:
            _from_drive(file_id, target, report)
        except Exception as error:
            # So a part is refused that is longer than what the file has become, or is whole.
            if not resumes or "byte range" not in str(error):
                raise
            _delete(_drive_parts(target))
            _from_drive(file_id, target, report)
    except CheckpointError:  # ours, from ``report``: nobody will go on with so much
        _delete(_drive_parts(target))
        raise
    except Exception as error:  # gdown reads pages that may be anything
        # What requests raises are OSErrors, with more in them than a person wants to read.
        reason = "no connection" if isinstance(error.__cause__, OSError) else _reason(error)
        raise CheckpointError(
            f"https://drive.google.com/uc?id={file_id} cannot be fetched from here ({reason}); "
            "fetch it with a browser and give its path, or try again, which goes on where "
            "this ended."
        ) from error


def _from_drive(file_id: str, target: Path, progress: Progress) -> None:
    import gdown

    gdown.download(
        id=file_id,
        output=str(target),
        quiet=True,
        use_cookies=False,
        resume=True,
        progress=progress,
        timeout=TIMEOUT,
        retries=DRIVE_RETRIES,
    )


def _drive_parts(target: Path) -> list[Path]:
    """gdown puts eight characters of its own into a part's name."""
    return list(target.parent.glob(f"{glob.escape(target.name)}????????.part"))


def _delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def fetch_url(url: str, target: Path, progress: Progress = silent) -> None:
    """Fetch an http(s) address; ``progress`` counts bytes.

    What has come stays beside ``target``, which the caller holds (``alone``), and the next call
    goes on from there if the server says that the file is still the same.

    Raises:
        CheckpointError: it cannot be had, is a web page, or is too large.
    """
    part = target.with_name(f"{target.name}.part")
    with httpx.Client(
        follow_redirects=True,
        timeout=TIMEOUT,
        # Byte offsets must be those of the file.
        headers={"Accept-Encoding": "identity", "User-Agent": "maskloop"},
    ) as client:
        failed = most = 0
        while True:
            most = max(most, _size(part))
            try:
                _receive(client, url, part, progress)
                break
            except (_TryAgainError, httpx.TransportError) as error:
                failed = 1 if _size(part) > most else failed + 1
                if failed >= TRIES:
                    raise CheckpointError(
                        f"{shown(url)} cannot be fetched ({_reason(error)}); check the address "
                        "and the network, then try again, which goes on where this ended."
                    ) from error
                time.sleep(PAUSE * 2 ** (failed - 1))
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                raise CheckpointError(
                    f"{shown(url)} cannot be fetched ({_reason(error)}); check the address and "
                    "the space on this disk."
                ) from error
        part.replace(target)
        _validator_file(part).unlink(missing_ok=True)


def shown(url: str) -> str:
    """An address fit for messages and records: its query may hold a signature or a password."""
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", url)[0])[:300]


def _receive(client: httpx.Client, url: str, part: Path, progress: Progress) -> None:
    known, known_total = _remembered(part)
    # One byte that we have is asked for again: the reply to a part that is whole, and only was not
    # renamed, is then like any other.
    start = max(_size(part) - 1, 0) if known else 0
    # If-Range: a file that changed since is sent from its beginning.
    resume = {"Range": f"bytes={start}-", "If-Range": known} if start else {}
    with client.stream("GET", url, headers=resume) as response:
        status = response.status_code
        resumed = status == httpx.codes.PARTIAL_CONTENT and bool(start)
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            _forget(part)
            raise _TryAgainError("the server has less of the file than we have")
        if status >= 500 or status == httpx.codes.TOO_MANY_REQUESTS:
            raise _TryAgainError(f"its server answered {status}")
        if not resumed and status != httpx.codes.OK:
            raise CheckpointError(
                f"{shown(url)} cannot be fetched: its server answered {status} "
                f"{response.reason_phrase}; check the address."
            )
        if response.headers.get("content-type", "").startswith("text/html"):
            raise CheckpointError(
                f"{shown(url)} is a web page, not a checkpoint; give the address of the file "
                "itself, or fetch it with a browser and give its path."
            )
        if resumed:
            first, total = _content_range(response)
            if first != start:
                _forget(part)
                raise _TryAgainError("the server sent another part of the file")
            total, known_total = total or known_total, known_total or total
            # Some servers ignore If-Range.
            if total != known_total or _validator(response) not in ("", known):
                _forget(part)
                raise _TryAgainError("the file at the server changed meanwhile")
        else:
            total = _content_length(response)
        done = start if resumed else 0
        try:
            _check_size(total or 0, shown(url))
            if not resumed:
                _remember(part, response, total)
            with part.open("r+b" if resumed else "wb") as file:
                file.seek(done)
                for chunk in response.iter_bytes():
                    done += len(chunk)
                    _check_size(done, shown(url))
                    file.write(chunk)
                    progress(done, total)
        except CheckpointError:  # nobody will go on with gigabytes that are no SegNext
            _forget(part)
            raise
    if total is not None and done < total:
        raise _TryAgainError("the server sent less of the file than it said")


# --- what tells a file from a later one at the same address ---


def _remember(part: Path, response: httpx.Response, total: int | None) -> None:
    """For the file that begins to come. Where the reply says nothing of use: never resume."""
    _forget(part)  # bytes of an earlier file must never lie beside the validator of this one
    value = _validator(response)
    if value and "content-encoding" not in response.headers:
        write_file(_validator_file(part), f"{value}\n{total or ''}".encode())


def _remembered(part: Path) -> tuple[str, int | None]:
    """(validator, bytes of the whole file) of what lies in ``part``; ("", None): not known."""
    try:
        value, _, total = _validator_file(part).read_text("utf-8", "replace").partition("\n")
    except FileNotFoundError:
        return "", None
    return (value, int(total) if total.isdecimal() else None) if _can_be_sent(value) else ("", None)


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


def _validator(response: httpx.Response) -> str:
    """Its strong ETag, else its date; "": it has nothing that could be sent back."""
    tag, date = (response.headers.get(name, "") for name in ("etag", "last-modified"))
    usable = [each for each in (tag, date) if _can_be_sent(each) and not each.startswith("W/")]
    return usable[0] if usable else ""


def _can_be_sent(value: str) -> bool:
    return value.isascii() and value.isprintable() and bool(value)


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """(first byte, bytes of the whole file) of a reply with a part of it."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
    if found is None:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _content_length(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    encoded = "content-encoding" in response.headers  # the length is of what was made of the file
    return int(length) if length.isdecimal() and not encoded else None


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


# --- the rest ---


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_size(size: int, what: str) -> None:
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{what} is over {MAX_BYTES // 10**9} GB, so it is no SegNext; check the address."
        )


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".:")[:200]


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold ``target``, around its fetch and all that is done with it: two processes that append to
    one file would spoil it, and one would remove what the other reads.

    Its folder is made, and removed again unless something to go on from is left there.

    Raises:
        CheckpointError: another process holds it, or nothing can be written there.
    """
    path = target.with_name(f"{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise CheckpointError(
            f"Nothing can be written to {target.parent} ({error.strerror}); mend its rights."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False  # another process has it, or had it when we opened it and removed it since
        if not held:
            raise CheckpointError("Another process is adding this file; wait until it is done.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                target.parent.rmdir()
