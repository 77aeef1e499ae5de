"""The home folder of a machine that runs the whole stack: its settings file, secrets and lock.

``maskloop up`` writes the settings file on its first run. Later runs only add to it, so everything
that a person changes there stays, comments included.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from model.files import write_file
from pipeline.errors import ServiceError, SettingsError
from pipeline.settings import HOME_VARIABLE, SETTINGS_FILE, Settings, load_settings

LOCK_FILE = "up.lock"
HEADER = "Written by `maskloop up`; change what you like, it only adds what is missing."

# Not the usual ports, so that they are free when the machine already runs Redis or MongoDB.
REDIS_PORT = 6390
MONGOD_PORT = 27027
# What maskloop wrote before mongod had a password.
OLD_MONGOD_ADDRESS = f"mongodb://127.0.0.1:{MONGOD_PORT}"


def prepare_home(home: Path) -> Settings:
    """Make the home folder, fill in its settings file, and read the settings.

    Afterwards ``MASKLOOP_HOME`` names this folder, for this process and its child processes.

    Raises:
        SettingsError: the folder or file cannot be written, or holds something unusable.
    """
    home = home.resolve()
    try:
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)
        (home / "logs").mkdir(exist_ok=True)
        (home / "files").mkdir(exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"The home folder {home} cannot be made ({error.strerror}); "
            f"name another with {HOME_VARIABLE}."
        ) from error
    os.environ[HOME_VARIABLE] = str(home)
    _change(home, _fill_in)
    return load_settings().model_copy(update={"home": home})


def remember_project(home: Path, project: int) -> Settings:
    """Write the Label Studio project for the scheduled jobs; returns the new settings.

    Raises:
        SettingsError: the settings file cannot be read or written.
    """

    def change(text: str) -> str:
        document = tomlkit.parse(text)
        _table(document, "label_studio")["project"] = project
        return tomlkit.dumps(document)

    _change(home.resolve(), change)
    return load_settings().model_copy(update={"home": home.resolve()})


@contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home's lock; a second ``maskloop up`` on the same home is refused.

    Raises:
        ServiceError: another process holds it.
    """
    with (home / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ServiceError(
                f"maskloop already runs on {home} (process {holder}); use it, "
                "or stop it with `maskloop down`."
            ) from None
        # `maskloop down` reads the holder here; the kernel releases the lock when the process ends.
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def lock_holder(home: Path) -> int | None:
    """Process id of the ``maskloop up`` that runs on this home; None: none runs."""
    try:
        with (home / LOCK_FILE).open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None


def _fill_in(text: str) -> str:
    if not text.strip():
        text = f"# {HEADER}\n\n"
    document = tomlkit.parse(text)
    if "redis_url" not in document:
        # In TOML, a key outside all tables must come before the first table.
        password = secrets.token_urlsafe(24)
        redis_url = f"redis://:{password}@127.0.0.1:{REDIS_PORT}/0"
        document = tomlkit.parse(tomlkit.dumps({"redis_url": redis_url}) + text)
    defaults = {
        "label_studio": {
            "user": "admin@maskloop.example",
            "password": secrets.token_urlsafe(12),
            "token": secrets.token_hex(20),
        },
        "backend": {"password": secrets.token_urlsafe(24)},
        "fiftyone": {"database_uri": _mongod_address()},
    }
    fiftyone = _table(document, "fiftyone")
    if fiftyone.get("database_uri") == OLD_MONGOD_ADDRESS:
        fiftyone["database_uri"] = _mongod_address()
    for name, values in defaults.items():
        table = _table(document, name)
        for key, value in values.items():
            table.setdefault(key, value)
    return tomlkit.dumps(document)


def _mongod_address() -> str:
    password = secrets.token_urlsafe(24)
    return f"mongodb://maskloop:{password}@127.0.0.1:{MONGOD_PORT}/?authSource=admin"


def _table(document: tomlkit.TOMLDocument, name: str) -> Table:
    if name not in document:
        document[name] = tomlkit.table()
    table = document[name]
    if not isinstance(table, Table):
        raise SettingsError(f"[{name}] in {SETTINGS_FILE} is not a table; mend or remove it.")
    return table


def _change(home: Path, change: Callable[[str], str]) -> None:
    """Rewrite the settings file through a temporary one, readable by its owner only."""
    path = home / SETTINGS_FILE
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = change(before)
        if path.exists():
            path.chmod(0o600)  # an editor may have made it readable for others
        if after == before:
            return
        write_file(path, after.encode(), private=True)
    except TOMLKitError as error:
        raise SettingsError(f"{path} is not valid TOML ({error}); mend or remove it.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path} cannot be read and written ({error}); mend its rights or remove it."
        ) from error
