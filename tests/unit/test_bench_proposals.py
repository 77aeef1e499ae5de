"""The proposals bench: its figures on made-up overlaps, and the command on made-up pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.proposals import Found, main, summarize
from tests.shapes import write_folder


def test_figures_of_made_up_overlaps() -> None:
    # Two proposals on the first instance, one on the second, one on nothing; the third is missed.
    overlaps = np.array([[0.8, 0, 0], [0.6, 0, 0], [0, 0.5, 0], [0.1, 0, 0.4]])
    first = Found(overlaps, np.array([0.5, 0.01, 0.1]), seconds=2)
    nothing = Found(np.zeros((0, 1)), np.array([0.3]), seconds=4)
    table = summarize([first, nothing])
    assert (table["images"], table["instances"], table["proposals per image"]) == (2, 4, 2)
    assert (table["AR50"], table["AR75"]) == (0.5, 0.25)
    assert table["AR50 of large ones"] == pytest.approx(1 / 3)
    assert (table["right"], table["double"]) == (0.75, 0.25)
    assert table["mean IoU of those met"] == pytest.approx(0.65)
    assert table["seconds per image"] == 3


def test_the_command_finds_the_objects_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "data", 2)
    report = tmp_path / "report.json"
    given = [str(tmp_path / "data"), "--grid", "5", "--threads", "1", "--json", str(report)]
    monkeypatch.setattr(sys, "argv", ["bench.proposals", *given])
    main()
    written = json.loads(report.read_text())
    assert (written["images"], written["instances"], written["config"]["grid"]) == (2, 4, 5)
    assert written["AR50"] >= 0.75
    assert "AR50" in capsys.readouterr().out
