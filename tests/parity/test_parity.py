"""Our network gives the reference network's numbers, for every fixture at hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.checkpoints import load
from model.errors import DatasetError
from model.parity import differences, tolerance

FIXTURES = Path(__file__).parents[2].parent / "shared" / "parity"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.npz"))

needs_fixtures = pytest.mark.skipif(not NAMES, reason="no fixtures in ../shared/parity")


@needs_fixtures
@pytest.mark.parametrize("name", NAMES)
def test_every_array_is_within_tolerance(name):
    found = differences(load(FIXTURES / f"{name}.pth"), FIXTURES / f"{name}.npz")
    assert found and all(value <= tolerance(key) for key, value in found.items()), found


@needs_fixtures
def test_the_command_tells_a_match_from_a_mismatch(tmp_path):
    name = NAMES[0]
    with np.load(FIXTURES / f"{name}.npz") as file:
        arrays = dict(file)
    key = next(k for k in arrays if k.endswith("prob_after_1_clicks"))
    arrays[key] = arrays[key] + np.float32(2e-4)
    np.savez(tmp_path / "off.npz", **arrays)
    for fixture, expected in ((FIXTURES / f"{name}.npz", 0), (tmp_path / "off.npz", 1)):
        command = [sys.executable, "-m", "model.parity", FIXTURES / f"{name}.pth", fixture]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == expected, run.stderr
        assert "largest difference" in run.stdout


def test_what_is_no_fixture_is_refused(tmp_path):
    (tmp_path / "text.npz").write_bytes(b"no arrays")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for name in ("text.npz", "other.npz", "absent.npz"):
        with pytest.raises(DatasetError):
            differences(None, tmp_path / name)
