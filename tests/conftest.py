"""What every test shares: one thread for torch, no telemetry, no settings from outside."""

from __future__ import annotations

import os

import pytest

# Set before torch, fiftyone and the worker are imported by any test module.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own MASKLOOP_ settings must not reach a test; the suite's own switches may."""
    for name in list(os.environ):
        if name.startswith("MASKLOOP_") and not name.startswith(
            ("MASKLOOP_TESTS_", "MASKLOOP_LABEL_STUDIO_BIN")
        ):
            monkeypatch.delenv(name)
