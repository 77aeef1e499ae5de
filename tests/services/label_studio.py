"""A real Label Studio for tests. It starts in seconds, from a stored, migrated data folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".maskloop-cache"
BINARY_VARIABLE = "MASKLOOP_LABEL_STUDIO_BIN"
USERNAME = "admin@example.com"
PASSWORD = "only-for-tests"
TOKEN = "0123456789abcdef0123456789abcdef01234567"
FIRST_START_SECONDS = 240  # migrations of an empty database, on a busy machine
WARM_START_SECONDS = 90


def label_studio_binary() -> Path | None:
    """The label-studio command that the environment names, or else the repository's own."""
    named = os.environ.get(BINARY_VARIABLE)
    path = Path(named) if named else REPOSITORY / ".venv-label-studio" / "bin" / "label-studio"
    return path if path.is_file() else None


def free_port() -> int:
    """A free TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class LabelStudioServer:
    """A running server; ``files`` is the folder behind ``/data/local-files/``."""

    url: str
    token: str
    username: str
    password: str
    data: Path
    files: Path


class LabelStudioProcess:
    """Starts and stops one Label Studio with all of its state in one folder."""

    def __init__(self, binary: Path, home: Path, overrides: Mapping[str, str] | None = None):
        self.binary = binary
        self.port = free_port()
        self.server = LabelStudioServer(
            url=f"http://127.0.0.1:{self.port}",
            token=TOKEN,
            username=USERNAME,
            password=PASSWORD,
            data=home / "data",
            files=home / "files",
        )
        self._log = home / "label-studio.log"
        self.overrides = dict(overrides or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float) -> None:
        """Start, and return when the server answers; if it does not, fail with its log."""
        self.server.data.mkdir(parents=True, exist_ok=True)
        self.server.files.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(self.binary), "start", "--no-browser", "--internal-host", "127.0.0.1"]
                + ["-p", str(self.port)],
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"Label Studio died while starting:\n{self._tail()}")
            try:
                if httpx.get(f"{self.server.url}/health", timeout=2).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        self.stop()
        raise RuntimeError(f"Label Studio did not answer in {seconds:g} s:\n{self._tail()}")

    def stop(self) -> None:
        """Stop the server and its child processes; safe to call twice."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)  # it has its own session, so the group holds only it
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)

    def _environment(self) -> dict[str, str]:
        # Only variables that every program needs, so that it sees no DJANGO_ or LABEL_STUDIO_ one.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.server.data),
            "DJANGO_DB": "sqlite",
            "LABEL_STUDIO_HOST": self.server.url,
            "LABEL_STUDIO_USERNAME": self.server.username,
            "LABEL_STUDIO_PASSWORD": self.server.password,
            "LABEL_STUDIO_USER_TOKEN": self.server.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.server.files),
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "SENTRY_RATE": "0",
            "FRONTEND_SENTRY_RATE": "0",
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            **self.overrides,
        }

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]


def _template(binary: Path, scratch: Path) -> Path:
    """A data folder after its first start. Made once per installed Label Studio, then copied."""
    stamp = f"{binary.resolve()} {binary.stat().st_mtime_ns} {USERNAME} {PASSWORD} {TOKEN}"
    folder = CACHE / f"label-studio-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    first = LabelStudioProcess(binary, scratch)
    try:
        first.start(FIRST_START_SECONDS)
    finally:
        first.stop()
    CACHE.mkdir(exist_ok=True)
    partial = CACHE / f"{folder.name}.{os.getpid()}"
    shutil.copytree(first.server.data, partial)
    try:
        partial.rename(folder)  # in one step, so that two runs at the same time do no harm
    except OSError:
        shutil.rmtree(partial)
    return folder


def start_label_studio(
    home: Path, overrides: Mapping[str, str] | None = None
) -> LabelStudioProcess:
    """A started server under ``home``; skips the test where Label Studio is not installed."""
    binary = label_studio_binary()
    if binary is None:
        pytest.skip(f"needs Label Studio: set {BINARY_VARIABLE}, or make .venv-label-studio")
    process = LabelStudioProcess(binary, home, overrides)
    shutil.copytree(_template(binary, home / "first"), process.server.data)
    process.start(WARM_START_SECONDS)
    return process


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """One Label Studio for the whole session; each test makes its own projects."""
    process = start_label_studio(tmp_path_factory.mktemp("label-studio"))
    yield process.server
    process.stop()
