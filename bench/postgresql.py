"""A PostgreSQL of its own for ``bench.chaos``, which may crash and is started again at once."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

DOWN_SECONDS = 2.0


@dataclass(frozen=True)
class Postgres:
    """A running server. ``url`` is SQLAlchemy's address of an empty database on it."""

    url: str
    control: tuple[str, ...]
    options: str
    become: Callable[[], None] | None

    def crash(self) -> None:
        """End every process of the server without a shutdown, and start it again."""
        self._run("stop", "-m", "immediate")
        time.sleep(DOWN_SECONDS)
        self.start()

    def start(self) -> None:
        self._run("start", "-o", self.options, "-l", "log")

    def _run(self, *arguments: str) -> None:
        command = [*self.control, *arguments]
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            preexec_fn=self.become,
            cwd=Path(self.control[2]).parent,
        )


@contextmanager
def postgresql() -> Iterator[Postgres | None]:
    """A server on a socket in a temporary folder; None where none is installed."""
    folders = [Path(name) for name in sorted(glob.glob("/usr/lib/postgresql/*/bin"))]
    found = shutil.which("initdb")
    folders += [Path(found).parent] if found else []
    binaries = next((each for each in reversed(folders) if (each / "postgres").exists()), None)
    if binaries is None:
        yield None
        return
    become = None
    with tempfile.TemporaryDirectory(prefix="maskloop-pg-") as name:
        folder = Path(name)
        if os.getuid() == 0:  # PostgreSQL refuses to run as root.
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, -1)

            def become() -> None:
                os.setgid(account.pw_gid)
                os.setuid(account.pw_uid)

        data = folder / "data"
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "maskloop", "-A", "trust"]
        subprocess.run(initdb, check=True, capture_output=True, preexec_fn=become, cwd=folder)
        control = (str(binaries / "pg_ctl"), "-D", str(data), "-w", "-t", "60")
        address = f"postgresql+psycopg://maskloop@/postgres?host={quote(name, safe='')}"
        server = Postgres(address, control, f"-c listen_addresses='' -k {folder}", become)
        server.start()
        try:
            yield server
        finally:
            server._run("stop", "-m", "immediate")
