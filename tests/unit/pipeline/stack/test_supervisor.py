"""Dead and hung services are started again; only a core one that keeps dying ends the stack."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.errors import ServiceError
from pipeline.stack import supervisor as module
from pipeline.stack.processes import Processes, leftovers, stop_all
from pipeline.stack.service import Service
from pipeline.stack.supervisor import Supervisor

PATIENCE = 30.0
# Writes the time into a file again and again, as long as it is neither dead nor stopped.
LIVELY = (
    "import sys, time, pathlib\n"
    "while True:\n"
    "    pathlib.Path(sys.argv[1]).write_text(str(time.time()))\n"
    "    time.sleep(0.05)"
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "logs").mkdir()
    yield tmp_path
    stop_all(leftovers(tmp_path))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.2)


def lively(home: Path, name: str, **fields: object) -> Service:
    sign = home / name

    def is_fresh() -> bool:
        return sign.exists() and time.time() - sign.stat().st_mtime < 1

    return Service(
        name=name,
        command=[sys.executable, "-c", LIVELY, str(sign)],
        ready=is_fresh,
        hung_seconds=2,
        **fields,  # type: ignore[arg-type]
    )


def failing(home: Path, name: str, **fields: object) -> Service:
    code = f"print('no such disk'); raise SystemExit({len(name)})"
    return Service(
        name=name,
        command=[sys.executable, "-c", code],
        ready=lambda: False,
        **fields,  # type: ignore[arg-type]
    )


def tend_until(supervisor: Supervisor, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        supervisor.tend()
        time.sleep(0.02)


def running(home: Path, name: str) -> list[psutil.Process]:
    return [each for each in leftovers(home) if str(home / name) in each.cmdline()]


def test_one_that_dies_is_started_again_alone(home: Path) -> None:
    said: list[str] = []
    with Processes(home) as processes:
        for name in ("one", "other"):
            processes.start(lively(home, name))
        processes.wait("one", "other")
        (other,), (one,) = running(home, "other"), running(home, "one")
        with Supervisor(processes, said.append) as supervisor:
            one.kill()
            tend_until(supervisor, lambda: "one is ready again." in said)
        assert [each.pid for each in running(home, "other")] == [other.pid]
        assert [each.pid for each in running(home, "one")] != [one.pid]
    assert "one stopped (SIGKILL); it is started again now." in said[0]
    assert str(home / "logs" / "one.log") in said[0]


def test_a_hung_one_is_killed_and_started_again(home: Path) -> None:
    said: list[str] = []
    with Processes(home) as processes:
        processes.start(lively(home, "one", core=True))
        processes.wait("one")
        with Supervisor(processes, said.append) as supervisor:
            running(home, "one")[0].suspend()
            tend_until(supervisor, lambda: "one is ready again." in said)
        assert len(running(home, "one")) == 1
    assert "one did not answer for 2 s; it is started again now." in said[0]


def test_one_that_waits_for_another_is_not_taken_for_hung(home: Path) -> None:
    said: list[str] = []
    with Processes(home) as processes:
        needed, needing = lively(home, "needed"), lively(home, "needing")
        answers = Service(
            name="needing",
            command=needing.command,
            ready=lambda: needed.ready() and needing.ready(),
            hung_seconds=1,
            needs=("needed",),
        )
        for service in (needed, answers):
            processes.start(service)
        processes.wait("needed", "needing")
        (before,) = running(home, "needing")
        with Supervisor(processes, said.append) as supervisor:
            running(home, "needed")[0].suspend()
            tend_until(supervisor, lambda: "needed is ready again." in said)
        assert [each.pid for each in running(home, "needing")] == [before.pid]


def test_a_core_one_that_keeps_dying_ends_it_with_its_last_words(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with Processes(home) as processes:
        processes.start(failing(home, "vital", core=True))
        with (
            Supervisor(processes, said.append) as supervisor,
            pytest.raises(ServiceError, match=r"vital stopped \(exit code 5, its last words: no"),
        ):
            tend_until(supervisor, lambda: False)
    assert len(said) == module.TRIES  # The first death came after it had been ready.
    assert said[1].count("it is started again in")


def test_one_that_is_not_core_is_tried_for_ever(home: Path) -> None:
    said: list[str] = []
    with Processes(home) as processes:
        processes.start(failing(home, "viewer", optional=True))
        processes.start(lively(home, "one"))
        assert processes.wait("viewer", "one") == ["viewer"]
        with Supervisor(processes, said.append) as supervisor:
            tend_until(supervisor, lambda: len(said) > module.TRIES + 2)
        assert running(home, "one")


def test_old_deaths_are_forgotten_after_a_steady_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEADY_SECONDS", 0.3)
    said: list[str] = []
    with Processes(home) as processes:
        processes.start(lively(home, "one", core=True))
        processes.wait("one")
        with Supervisor(processes, said.append) as supervisor:
            for death in range(1, module.TRIES + 2):
                running(home, "one")[0].kill()
                tend_until(supervisor, lambda d=death: said.count("one is ready again.") == d)
                until = time.monotonic() + 0.8
                tend_until(supervisor, lambda u=until: time.monotonic() > u)
    assert all("now" in sentence for sentence in said if "stopped" in sentence)
