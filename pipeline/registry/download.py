"""Downloads large files, and resumes a download that this or an earlier process began."""

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
from pipeline.errors import BusyError

MAX_BYTES = 8_000_000_000  # the largest ViT in single precision is well under half of it
TRIES = 5  # in a row that bring no new bytes
DRIVE_RETRIES = 3
PAUSE = 1.0  # seconds after the first such try; it doubles each time
TIMEOUT = 30.0  # seconds without a byte


class _TryAgainError(Exception):
    """An error that may not occur again at the next try."""


def fetch_drive(file_id: str, target: Path, progress: Progress = silent) -> None:
    """Fetch a public file of Google Drive by its id; ``progress`` counts bytes.

    The bytes of an unfinished download stay next to ``target``, which the caller holds (``alone``),
    and the next call continues from them. gdown cannot tell whether the file changed in between, so
    the caller must check the result, for example by the checksums in a .pth file.

    Raises:
        CheckpointError: it cannot be fetched now, or is too large.
    """

    def report(done: int, total: int | None) -> None:
        _check_size(max(done, total or 0), "The file")
        progress(done, total)

    resumes = bool(_drive_parts(target))
    try:
        try:
            _from_drive(file_id, target, report)
        except Exception as error:
            # This is the error for a part that is complete, or longer than the file is now.
            if not resumes or "byte range" not in str(error):
                raise
            _delete(_drive_parts(target))
            _from_drive(file_id, target, report)
    except CheckpointError:  # from ``report``: a file that is too large is of no use
        _delete(_drive_parts(target))
        raise
    except Exception as error:  # gdown reads web pages, so any error is possible
        # The errors of requests are OSErrors, and their texts are too long to show.
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
    """The unfinished downloads of gdown, which adds eight characters to the name of a part."""
    return list(target.parent.glob(f"{glob.escape(target.name)}????????.part"))


def _delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def fetch_url(url: str, target: Path, progress: Progress = silent) -> None:
    """Fetch an http(s) address; ``progress`` counts bytes.

    The bytes of an unfinished download stay next to ``target``, which the caller holds (``alone``),
    and the next call continues from them if the server says that the file is still the same.

    Raises:
        CheckpointError: it cannot be fetched, is a web page, or is too large.
    """
    part = target.with_name(f"{target.name}.part")
    with httpx.Client(
        follow_redirects=True,
        timeout=TIMEOUT,
        # Without compression, so that byte offsets are those of the file.
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
    """An address to show, without the parts that may hold secrets; at most 300 characters."""
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", url)[0])[:300]


def _receive(client: httpx.Client, url: str, part: Path, progress: Progress) -> None:
    known, known_total = _remembered(part)
    # The last byte of the part is requested again. So a part that is complete, but was not renamed
    # yet, also gets a normal reply.
    start = max(_size(part) - 1, 0) if known else 0
    # With If-Range, the server sends a file that has changed from its beginning.
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
        except CheckpointError:  # a file that is too large is not a SegNext checkpoint
            _forget(part)
            raise
    if total is not None and done < total:
        raise _TryAgainError("the server sent less of the file than it said")


# --- Validators: whether the file at an address is still the same ---


def _remember(part: Path, response: httpx.Response, total: int | None) -> None:
    """Write the validator of a download that starts now. Without one it is never resumed."""
    _forget(part)  # an older part must not be resumed with the new validator
    value = _validator(response)
    if value and "content-encoding" not in response.headers:
        write_file(_validator_file(part), f"{value}\n{total or ''}".encode())


def _remembered(part: Path) -> tuple[str, int | None]:
    """(validator, size in bytes of the complete file) of ``part``; ("", None) if not known."""
    try:
        value, _, total = _validator_file(part).read_text("utf-8", "replace").partition("\n")
    except FileNotFoundError:
        return "", None
    return (value, int(total) if total.isdecimal() else None) if _can_be_sent(value) else ("", None)


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator_file(part).unlink(missing_ok=True)


def _validator(response: httpx.Response) -> str:
    """The reply's strong ETag, else its date; "" when it has neither in a usable form."""
    tag, date = (response.headers.get(name, "") for name in ("etag", "last-modified"))
    usable = [each for each in (tag, date) if _can_be_sent(each) and not each.startswith("W/")]
    return usable[0] if usable else ""


def _can_be_sent(value: str) -> bool:
    return value.isascii() and value.isprintable() and bool(value)


def _content_range(response: httpx.Response) -> tuple[int | None, int | None]:
    """(first byte, size in bytes of the complete file) of a reply with a part of the file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("content-range", ""))
    if found is None:
        return None, None
    return int(found[1]), None if found[2] == "*" else int(found[2])


def _content_length(response: httpx.Response) -> int | None:
    length = response.headers.get("content-length", "")
    encoded = "content-encoding" in response.headers  # the length is then that of the encoded bytes
    return int(length) if length.isdecimal() and not encoded else None


def _validator_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.validator")


# --- Helpers ---


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check_size(size: int, what: str) -> None:
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{what} is over {MAX_BYTES // 10**9} GB, so it is no SegNext checkpoint; check the "
            "address."
        )


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".:")[:200]


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Hold a lock on ``target`` while it is fetched and used.

    Without the lock, two processes would append to one file, or one would delete a file that the
    other reads. The folder of ``target`` is made, and removed again if it is empty at the end.

    Raises:
        BusyError: another process holds it.
        CheckpointError: nothing can be written there.
    """
    path = target.with_name(f"{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise CheckpointError(
            f"Nothing can be written to {target.parent} ({error.strerror}); correct its rights."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            held = False  # another process holds it, or has removed it since we opened it
        if not held:
            raise BusyError("Another process is adding this file; wait until it is done.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                target.parent.rmdir()
