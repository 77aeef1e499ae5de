"""Our network gives the reference network's numbers, for every fixture that is available."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoints.files import load
from model.errors import DatasetError, MaskloopError
from model.export.parity import differences, main, tolerance
from tests.parity import plain
from tests.parity.plain import Shape

FIXTURES = Path(__file__).parents[2].parent / "shared" / "parity"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.npz"))

needs_fixtures = pytest.mark.skipif(not NAMES, reason="no fixtures in ../shared/parity")


@needs_fixtures
@pytest.mark.parametrize("name", NAMES)
def test_every_array_is_within_tolerance(name):
    found = differences(load(FIXTURES / f"{name}.pth"), FIXTURES / f"{name}.npz")
    assert found and all(value <= tolerance(key) for key, value in found.items()), found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint and a fixture of two sizes, as files, from the plain network."""
    folder = tmp_path_factory.mktemp("parity")
    shape = Shape(size=64, dim=8, heads=2)
    torch.save(plain.checkpoint(shape), folder / "a.pth")
    random = np.random.default_rng(0)
    images = {
        f"{height}x{width}": (random.integers(0, 256, (height, width, 3), np.uint8), clicks)
        for height, width, clicks in ((20, 30, [(1, 3, 4), (0, 9, 29)]), (9, 8, [(1, 0, 7)]))
    }
    np.savez(folder / "a.npz", **plain.fixture(shape, 0, images))
    return folder


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


def test_the_command_reports_a_match_and_a_mismatch(made, tmp_path, capsys):
    arrays = arrays_of(made / "a.npz")
    arrays["9x8/prob_after_1_clicks"] += np.float32(2e-4)
    np.savez(tmp_path / "off.npz", **arrays)
    for fixture, expected in ((made / "a.npz", 0), (tmp_path / "off.npz", 1)):
        assert main([str(made / "a.pth"), str(fixture)]) == expected
        table = capsys.readouterr().out
        assert (table.count("ok"), table.count("FAILED")) == (5 - expected, expected)
    assert main([str(made / "a.npz"), str(made / "a.npz")]) == 2
    assert capsys.readouterr().err.count(".") >= 1


def test_the_command_is_one_line(made):
    command = [sys.executable, "-m", "model.export.parity", made / "a.pth", made / "a.npz"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "largest difference" in ran.stdout


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
def test_clicks_may_be_of_any_number_type(made, tmp_path, dtype):
    arrays = arrays_of(made / "a.npz")
    for name in arrays:
        if name.endswith("row_col"):
            arrays[name] = arrays[name].astype(dtype)
    np.savez(tmp_path / "a.npz", **arrays)
    found = differences(load(made / "a.pth"), tmp_path / "a.npz")
    assert max(found.values()) < 1e-4


def test_a_wrong_shape_or_a_missing_number_is_a_mismatch(made, tmp_path):
    arrays = arrays_of(made / "a.npz")
    arrays["9x8/image_feats"] = arrays["9x8/image_feats"][0]
    arrays["20x30/prob_after_1_clicks"][0, 0] = np.nan
    np.savez(tmp_path / "a.npz", **arrays)
    found = differences(load(made / "a.pth"), tmp_path / "a.npz")
    off = [name for name, value in found.items() if not value <= tolerance(name)]
    assert sorted(off) == ["20x30/prob_after_1_clicks", "9x8/image_feats"]


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("9x8/image_feats", None, "lacks 9x8/image_feats"),
        ("9x8/clicks_positive_row_col", None, "lacks 9x8/clicks"),
        ("20x30/prob_after_2_clicks", None, "lacks 20x30/prob_after_2"),
        ("20x30/prob_after_3_clicks", np.zeros((20, 30), np.float32), "without its click"),
        ("9x8/clicks_positive_row_col", np.zeros((1, 2)), "rows of"),
        ("9x8/clicks_positive_row_col", np.array([["1", "2", "3"]]), "rows of"),
        ("9x8/clicks_positive_row_col", np.array([[1, np.nan, 3]]), "finite"),
        ("9x8/image", np.zeros((9, 8), np.uint8), "RGB"),
        ("9x8/image", np.zeros((9, 8, 3), np.float32), "RGB"),
        ("9x8/image", np.array([None, None]), "cannot be read as a fixture"),
    ],
)
def test_an_incomplete_fixture_is_refused(made, tmp_path, name, array, says):
    arrays = arrays_of(made / "a.npz")
    arrays.pop(name, None)
    np.savez(tmp_path / "a.npz", **arrays, **({} if array is None else {name: array}))
    with pytest.raises(MaskloopError, match=rf"{says}.*\.$"):
        differences(load(made / "a.pth"), tmp_path / "a.npz")


def test_a_file_that_is_not_a_fixture_is_refused(made, tmp_path):
    (tmp_path / "text.npz").write_bytes(b"no arrays")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "short.npz").write_bytes((made / "a.npz").read_bytes()[:2000])
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    (tmp_path / "folder.npz").mkdir()
    for name in ("text.npz", "empty.npz", "short.npz", "one.npy", "other.npz", "absent.npz"):
        with pytest.raises(DatasetError, match=r"\.$"):
            differences(load(made / "a.pth"), tmp_path / name)
    with pytest.raises(DatasetError):
        differences(load(made / "a.pth"), tmp_path / "folder.npz")
