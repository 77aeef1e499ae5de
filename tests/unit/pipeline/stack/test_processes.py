"""Services as real processes: readiness, sentences, and an end that reaches every child."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ServiceError
from pipeline.stack.processes import (
    MARK_VARIABLE,
    Processes,
    leftovers,
    require_free_ports,
    stop_all,
)
from pipeline.stack.service import Service

# A parent with a child in a session of its own: what a plain kill of the group would miss.
FAMILY = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'],"
    " start_new_session=True)\n"
    "open(sys.argv[1], 'w').write(str(child.pid))\n"
    "time.sleep(300)"
)
STUBBORN = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "open(sys.argv[1], 'w').write('ready')\n"
    "time.sleep(300)"
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "logs").mkdir()
    yield tmp_path
    stop_all(leftovers(tmp_path))


def script(code: str, sign: Path, **fields: object) -> Service:
    """A service that runs Python code and is ready once the file ``sign`` has content."""
    return Service(
        name="thing",
        command=[sys.executable, "-c", code, str(sign)],
        ready=lambda: sign.exists() and sign.stat().st_size > 0,
        **fields,  # type: ignore[arg-type]
    )


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_stop_reaches_a_grandchild_that_left_and_nobody_else(home: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        with Processes(home) as processes:
            processes.start(script(FAMILY, home / "sign"))
            processes.wait("thing")
            grandchild = int((home / "sign").read_text())
            assert alive(grandchild)
            assert len(leftovers(home)) == 2
        assert not alive(grandchild)
        assert leftovers(home) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_one_that_ignores_the_request_is_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.stack.processes.KILL_SECONDS", 0.3)
    processes = Processes(home)
    processes.start(script(STUBBORN, home / "sign", stop_seconds=0.2))
    processes.wait("thing")
    processes.stop()

    assert leftovers(home) == []


def test_one_that_dies_is_one_sentence_with_its_last_words(home: Path) -> None:
    with Processes(home) as processes:
        processes.start(script("print('no such disk'); raise SystemExit(3)", home / "sign"))
        with pytest.raises(ServiceError, match=r"thing stopped \(exit code 3, its last words: no"):
            processes.wait("thing")


def test_one_that_dies_while_watched_is_noticed(home: Path) -> None:
    with Processes(home) as processes:
        processes.start(script(FAMILY, home / "sign"))
        processes.wait("thing")
        processes.check()
        for process in leftovers(home):
            process.kill()
        deadline = time.monotonic() + 5
        with pytest.raises(ServiceError, match=r"thing stopped \(SIGKILL"):
            while time.monotonic() < deadline:
                processes.check()


def test_one_that_never_gets_ready_is_one_sentence(home: Path) -> None:
    with Processes(home) as processes:
        slow = script("import time; time.sleep(300)", home / "sign", start_seconds=0.3)
        processes.start(slow)
        with pytest.raises(ServiceError, match=r"did not become ready .*thing\.log"):
            processes.wait("thing")


def test_a_taken_port_names_its_holder_and_the_setting(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        service = script("", home / "sign", port=port, port_setting="backend.port")
        with pytest.raises(ServiceError) as caught, Processes(home) as processes:
            processes.start(service)
    message = str(caught.value)
    assert f"Port {port}, which thing needs, is already in use by" in message
    assert f"({os.getpid()})" in message
    assert "(backend.port)" in message


def test_all_taken_ports_are_told_at_once(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as two:
        ports = [server.getsockname()[1] for server in (one, two)]
        with pytest.raises(ServiceError) as caught:
            require_free_ports(*(script("", home / "sign", port=port) for port in ports))
    assert all(f"Port {port}" in str(caught.value) for port in ports)
    assert "port_offset" in str(caught.value)


def test_a_port_that_is_only_closing_counts_as_free(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # our end closes first, so it is ours that lingers
        client.close()
    with Processes(home) as processes:
        code = "import sys; open(sys.argv[1], 'w').write('x'); import time; time.sleep(300)"
        processes.start(script(code, home / "sign", port=port))
        processes.wait("thing")


def test_a_missing_program_is_one_sentence(home: Path) -> None:
    service = Service(name="thing", command=["/nowhere/thing"], ready=lambda: True)
    with pytest.raises(ServiceError, match="cannot be started .*/nowhere/thing.*make install"):
        Processes(home).start(service)


def test_a_closed_service_sees_only_the_bare_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "somebody.elses")
    code = (
        "import os, sys, time; open(sys.argv[1], 'w').write(repr(dict(os.environ))); time.sleep(9)"
    )
    with Processes(home) as processes:
        sign = home / "sign"
        processes.start(script(code, sign, inherit=False, environment={"OWN": "1"}))
        processes.wait("thing")
        seen = sign.read_text()
    assert "DJANGO" not in seen
    assert "'OWN': '1'" in seen
    assert MARK_VARIABLE in seen
