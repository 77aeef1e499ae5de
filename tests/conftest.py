"""Shared parts of all tests, and the end of a run, which lists the tests that were left out.

``tests.transactions`` watches all tests: none may wait for anything inside a transaction.

With ``MASKLOOP_TESTS_COMPLETE=1`` (as in ``.ci/run``) a test that is left out makes the run fail.
Exceptions are tests that need what a clone of the repository cannot have: reference data next to
it, or a GPU.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.services.mongod import mongod_uri
from tests.services.postgresql import every_database, postgresql
from tests.transactions import TransactionGuard

__all__ = ["every_database", "mongod_uri", "postgresql"]  # fixtures of every test

# Set before torch, fiftyone and the worker are imported by any test module.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

COMPLETE_VARIABLE = "MASKLOOP_TESTS_COMPLETE"
# Settings of the suite itself, not of maskloop.
SUITE_VARIABLES = ("MASKLOOP_TESTS_", "MASKLOOP_LABEL_STUDIO_BIN")
# A skip is allowed when its reason contains one of these words.
NOT_IN_A_CLONE = ("../shared", "GPU")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove a developer's own MASKLOOP_ settings, except the switches of the test suite."""
    for name in list(os.environ):
        if name.startswith("MASKLOOP_") and not name.startswith(SUITE_VARIABLES):
            monkeypatch.delenv(name)


class LeftOut:
    """Counts the tests that were left out, by reason."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            self._count(report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._count(report.longrepr)

    @property
    def unforgiven(self) -> int:
        return sum(
            count
            for reason, count in self.reasons.items()
            if not any(known in reason for known in NOT_IN_A_CLONE)
        )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.unforgiven and os.environ.get(COMPLETE_VARIABLE) == "1" and exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.reasons:
            terminalreporter.write_line("No test was left out.")
            return
        terminalreporter.section("tests left out")
        for reason, count in sorted(self.reasons.items()):
            terminalreporter.write_line(f"{count:4d}  {reason}")
        if self.unforgiven and os.environ.get(COMPLETE_VARIABLE) == "1":
            terminalreporter.write_line(
                f"{COMPLETE_VARIABLE}=1: {self.unforgiven} left out that a clone can run; failed."
            )

    def _count(self, longrepr: object) -> None:
        # pytest gives (file, line, "Skipped: reason"); without a reason it is a plain string.
        reason = str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)
        self.reasons[reason.removeprefix("Skipped: ")] += 1


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(LeftOut(), "maskloop-left-out")
    guard = TransactionGuard()
    guard.install()
    config.add_cleanup(guard.remove)
    config.pluginmanager.register(guard, TransactionGuard.NAME)
