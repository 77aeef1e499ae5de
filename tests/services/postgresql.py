"""A real PostgreSQL for tests, where its server is installed (Debian: postgresql).

With ``MASKLOOP_TESTS_DATABASE=postgresql`` every test that names no database gets one there, so
that the same tests run on both databases.
"""

from __future__ import annotations

import glob
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy import create_engine, text

from pipeline.settings import Settings

DATABASE_VARIABLE = "MASKLOOP_TESTS_DATABASE"


def _binaries() -> Path | None:
    """The folder with initdb and postgres; Debian keeps it off the PATH."""
    folders = [Path(name) for name in sorted(glob.glob("/usr/lib/postgresql/*/bin"))]
    found = shutil.which("initdb")
    folders += [Path(found).parent] if found else []
    return next((each for each in reversed(folders) if (each / "postgres").exists()), None)


def _as_someone() -> Callable[[], None] | None:
    """PostgreSQL refuses to run as root, so it runs as the account that Debian's package made."""
    if os.getuid() != 0:
        return None
    account = pwd.getpwnam("postgres")

    def become() -> None:
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    return become


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a separate server, on a socket in a temporary folder, without a database."""
    binaries = _binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed")
    become = _as_someone()
    with tempfile.TemporaryDirectory(prefix="maskloop-pg-") as name:
        folder = Path(name)
        if become is not None:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        data = folder / "data"
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "maskloop", "-A", "trust", "-N"]
        subprocess.run(initdb, check=True, capture_output=True, preexec_fn=become, cwd=folder)
        control = [str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "60"]
        options = f"-c listen_addresses='' -k {folder} -F"
        start = [*control, "-o", options, "-l", str(folder / "log"), "start"]
        subprocess.run(start, check=True, capture_output=True, preexec_fn=become, cwd=folder)
        try:
            yield f"postgresql+psycopg://maskloop@/{{}}?host={quote(name, safe='')}"
        finally:
            stop = [*control, "-m", "immediate", "stop"]
            subprocess.run(stop, check=True, capture_output=True, preexec_fn=become, cwd=folder)


def new_database(postgresql: str, name: str) -> str:
    """The address of a database ``name`` on the server, made empty unless it exists."""
    admin = create_engine(postgresql.format("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        known = text("SELECT 1 FROM pg_database WHERE datname = :name")
        if connection.execute(known, {"name": name}).first() is None:
            connection.execute(text(f"CREATE DATABASE {name}"))
    admin.dispose()
    return postgresql.format(name)


@pytest.fixture(autouse=True, scope="session")
def every_database(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where the environment says so, give each home folder a database on PostgreSQL."""
    if os.environ.get(DATABASE_VARIABLE) != "postgresql":
        yield
        return
    server: str = request.getfixturevalue("postgresql")

    def sql_url(settings: Settings) -> str:
        if settings.database_url:
            return settings.database_url
        digest = hashlib.sha256(str(settings.home.resolve()).encode()).hexdigest()
        return new_database(server, f"home_{digest[:20]}")

    patch = pytest.MonkeyPatch()
    patch.setattr(Settings, "sql_url", property(sql_url))
    yield
    patch.undo()
