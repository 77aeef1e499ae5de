"""What a process works with: made when it is first used, closed at the end, and never a migration
as a side effect.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, event, inspect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from pipeline.cli import app as cli
from pipeline.errors import DatabaseError, SettingsError
from pipeline.record.engine import make_engine
from pipeline.record.migrations.runner import alembic_config
from pipeline.runtime import Runtime
from pipeline.settings import HOME_VARIABLE, Settings

DATABASE = "maskloop.sqlite3"
OLDER = "0002"
TOKEN = "f" * 40


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        redis_url="redis://127.0.0.1:1/0",
        label_studio={"url": "http://127.0.0.1:1", "token": TOKEN},
    )


@pytest.fixture
def connections() -> Iterator[set[int]]:
    """The connections to databases that are open at this moment."""
    opened: set[int] = set()

    def connects(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        opened.add(id(connection))

    def closes(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        opened.discard(id(connection))

    event.listen(Engine, "connect", connects)
    event.listen(Engine, "close", closes)
    yield opened
    event.remove(Engine, "connect", connects)
    event.remove(Engine, "close", closes)


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their names."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def absent(settings: Settings) -> None:
    """No database, and not even its folder."""


def empty(settings: Settings) -> None:
    """A file that SQLite takes for a database without tables."""
    settings.home.mkdir()
    (settings.home / DATABASE).touch()


def older(settings: Settings) -> None:
    """The database of an older maskloop."""
    engine = make_engine(settings)
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), OLDER)
        connection.commit()
    engine.dispose()


STATES = {"absent": absent, "empty": empty, "older": older}
Make = Callable[[Settings], None]


# --- opening and closing ---


def test_nothing_is_opened_before_it_is_used(
    settings: Settings, tmp_path: Path, connections: set[int]
) -> None:
    for migrate in (False, True):
        runtime = Runtime(settings, migrate=migrate)
        assert runtime.settings is settings and runtime.has_token
        assert set(vars(runtime)) & set(PARTS) == set()
        assert runtime.registry.named_file() is not None  # of the weights that ship
        runtime.close()
    assert connections == set()
    assert list(tmp_path.iterdir()) == []


PARTS = (
    "sessions",
    "store",
    "registry",
    "serving",
    "embeddings",
    "label_studio",
    "source",
    "catalog",
    "enqueuer",
)


def test_each_part_is_made_once(settings: Settings) -> None:
    with Runtime(settings, migrate=True) as runtime:
        for name in PARTS:
            assert getattr(runtime, name) is getattr(runtime, name), name
        assert runtime.registry.sessions is runtime.sessions


def test_making_a_runtime_imports_neither_torch_nor_an_http_client() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.runtime import Runtime\n"
        "from pipeline.settings import Settings\n"
        "with Runtime(Settings(home=Path('nowhere'))) as runtime: runtime.store\n"
        "slow = {'torch', 'httpx', 'httpcore', 'alembic'} & set(sys.modules)\n"
        "assert not slow, slow\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@contextmanager
def server() -> Iterator[str]:
    """The address of a server that answers everything with ``{}`` and keeps its connections."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_what_was_opened_is_closed(settings: Settings, connections: set[int]) -> None:
    with server() as url:
        account = settings.label_studio.model_copy(update={"url": url})
        changed = settings.model_copy(update={"label_studio": account})
        with Runtime(changed, migrate=True) as runtime:
            with runtime.sessions() as session:
                assert "image" in inspect(session.connection()).get_table_names()
            client, source = runtime.label_studio, runtime.source
            assert client.whoami() == {}
            assert source.fetch(f"{url}/data/upload/a.png") == b"{}"
            (pool,) = source._http._pools.values()
            # Kept for the next session, and for the next image.
            assert (len(connections), len(pool.connections)) == (1, 1)
        assert (len(connections), len(pool.connections)) == (0, 0)
        assert client._connection._http.is_closed


def test_closing_is_safe_when_nothing_was_opened_and_when_it_was_closed(
    settings: Settings, tmp_path: Path
) -> None:
    runtime = Runtime(settings)
    for _ in range(2):
        runtime.close()
    assert list(tmp_path.iterdir()) == []
    with Runtime(settings, migrate=True) as opened:
        assert opened.enqueuer and opened.label_studio and opened.source and opened.sessions
        opened.close()


def test_a_part_that_cannot_be_made_keeps_no_other_from_being_closed(
    settings: Settings, connections: set[int]
) -> None:
    bare = settings.model_copy(update={"label_studio": Settings().label_studio})
    with Runtime(bare, migrate=True) as runtime:
        assert runtime.sessions
        with pytest.raises(SettingsError, match="token"):
            _ = runtime.label_studio
        assert not runtime.has_token
        assert runtime.source  # images of this machine need no token
    assert connections == set()


# --- the database ---


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_without_migrate_a_database_that_is_not_the_newest_is_an_error_and_stays_as_it_is(
    settings: Settings, tmp_path: Path, make: Make
) -> None:
    make(settings)
    before = files(tmp_path)
    with Runtime(settings) as runtime:
        for _ in range(2):  # what failed is not remembered
            with pytest.raises(DatabaseError, match=r"run `maskloop upgrade`") as caught:
                _ = runtime.sessions
            assert str(caught.value).endswith(".")
        with pytest.raises(DatabaseError, match=r"run `maskloop upgrade`"):
            runtime.registry.named_version("base")
    assert files(tmp_path) == before
    assert settings.home.exists() == bool(before)


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_with_migrate_it_is_brought_up_to_date(settings: Settings, make: Make) -> None:
    make(settings)
    with Runtime(settings, migrate=True) as runtime, runtime.sessions() as session:
        assert "mask_sha256" in columns(session.connection().engine)
    with Runtime(settings) as runtime:
        assert runtime.sessions


def columns(engine: Engine) -> set[str]:
    """Names of the columns of accepted regions."""
    return {column["name"] for column in inspect(engine).get_columns("region")}


# --- the commands ---


@pytest.fixture
def maskloop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command on the home of ``settings``: exit code, output, errors."""
    monkeypatch.setenv(HOME_VARIABLE, str(settings.home))
    monkeypatch.setenv("MASKLOOP_REDIS_URL", settings.redis_url)

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["maskloop", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capfd.readouterr())

    return run


READING = (("status",), ("status", "--json"), ("models", "list"), ("models", "show", "base"))


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_commands_that_read_leave_every_database_as_it_was(
    settings: Settings, tmp_path: Path, maskloop: Callable[..., tuple[int, str, str]], make: Make
) -> None:
    make(settings)
    before = files(tmp_path)
    for arguments in READING:
        code, out, said = maskloop(*arguments)
        assert (code, out) == (1, ""), arguments
        assert "run `maskloop upgrade`" in said and said.strip().count("\n") == 0
    assert files(tmp_path) == before


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_the_command_upgrade_brings_it_up_to_date(
    settings: Settings, maskloop: Callable[..., tuple[int, str, str]], make: Make
) -> None:
    make(settings)
    for _ in range(2):
        code, out, _ = maskloop("upgrade")
        assert code == 0
        assert out.endswith(f"{DATABASE} has the newest schema.\n")
    engine = make_engine(settings)
    assert "mask_sha256" in columns(engine)
    engine.dispose()
    code, out, _ = maskloop("status", "--json")
    assert (code, json.loads(out)["images"]) == (0, 0)


def test_the_command_upgrade_tells_what_it_cannot_do_in_one_sentence(
    settings: Settings, maskloop: Callable[..., tuple[int, str, str]]
) -> None:
    settings.home.mkdir()
    (settings.home / DATABASE).write_bytes(b"my diary " * 1000)
    code, out, said = maskloop("upgrade")
    assert (code, out) == (1, "")
    assert "cannot be opened" in said and said.strip().count("\n") == 0
    assert files(settings.home) == {DATABASE: b"my diary " * 1000}
