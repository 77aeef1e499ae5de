"""The quality bench: GrabCut finds what it can find, and the command writes what it says."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest

from bench.quality import grabcut_from_box, grabcut_from_clicks, main
from model.masks import iou
from tests.shapes import write_folder


def _ball():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (120, 160, 3)).astype(np.uint8)
    target = np.zeros((120, 160), np.uint8)
    cv2.circle(target, (80, 60), 35, 1, -1)
    image[target > 0] += np.array([150, 60, 0], np.uint8)
    return image, target > 0


def test_grabcut_finds_a_ball_that_stands_out():
    image, target = _ball()
    assert iou(grabcut_from_box(image, target), target) > 0.9
    curve = grabcut_from_clicks(image, target, 3)
    assert curve.shape == (3,) and curve[2] > 0.8


def test_grabcut_of_nothing_but_the_object_is_the_object():
    image, target = _ball()
    everything = np.ones_like(target)
    assert iou(grabcut_from_box(image, everything), everything) == 1


def test_the_command_writes_figures_curves_and_a_sheet(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "data", 2)
    out, report = tmp_path / "out", tmp_path / "report.json"
    arguments = [str(tmp_path / "data"), "--clicks", "2", "--out", str(out), "--json", str(report)]
    monkeypatch.setattr(sys, "argv", ["bench.quality", *arguments])
    main()
    assert "GrabCut" in capsys.readouterr().out
    told = json.loads(report.read_text())
    assert told["figures"]["box"]["n"] == 2 and len(told["curves"]["click"]) == 2
    assert all(cv2.imread(str(out / name)) is not None for name in ("curves.png", "sheet.png"))


def test_one_data_set_and_some_kinds_can_be_measured(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", 2)
    manifest = tmp_path / "data" / "manifest.jsonl"
    first, second = map(json.loads, manifest.read_text().splitlines())
    manifest.write_text(json.dumps(first | {"dataset": "a"}) + "\n" + json.dumps(second))
    report = tmp_path / "report.json"
    arguments = [str(tmp_path / "data"), "--clicks", "1", "--json", str(report)]
    arguments += ["--kind", "box", "--dataset", "a"]
    monkeypatch.setattr(sys, "argv", ["bench.quality", *arguments])
    main()
    figures = json.loads(report.read_text())["figures"]
    assert figures["box"]["n"] == 1 and "click" not in figures
    monkeypatch.setattr(sys, "argv", ["bench.quality", *arguments[:-1], "b"])
    with pytest.raises(SystemExit):
        main()
