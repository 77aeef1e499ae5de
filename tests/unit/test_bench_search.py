"""The search bench: runs are trained once, measured alike, and compared picture by picture."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from bench import search
from model.network.config import SMALL
from model.network.segnext import SegNext
from model.training.recipe import Recipe
from tests.shapes import write_folder


@pytest.mark.parametrize("name", search.VARIANTS)
def test_every_variant_is_a_recipe_of_a_network_that_can_be(name, tmp_path):
    plan = search.recipe(tmp_path, tmp_path / "warm.pth", 600, search.VARIANTS[name])
    assert isinstance(plan, Recipe)
    assert plan.config.dim % plan.config.heads == 0
    assert plan.images * plan.targets * plan.steps * plan.crop**2 == pytest.approx(
        600 * 16 * 224**2, rel=0.05
    )


def test_the_command_trains_measures_and_compares(tmp_path, monkeypatch, capsys):
    write_folder(tmp_path / "data", 3, ["train", "val", "val"])
    warm = tmp_path / "warm.pth"
    torch.save(SegNext(SMALL).backbone.get_submodule("backbone").state_dict(), warm)
    out, table = tmp_path / "runs", tmp_path / "table.json"
    names = [search.BASE, "one fusion block"]
    given = [str(tmp_path / "data"), "--out", str(out), "--warm-start", str(warm), "--steps", "1"]
    given += ["--json", str(table), "--threads", str(torch.get_num_threads()), "--only", *names]
    monkeypatch.setattr(sys, "argv", ["bench.search", *given])
    search.main()
    first = {row["name"]: row for row in json.loads(table.read_text())}
    assert set(first) == set(names) and first[search.BASE]["targets"] == 16
    assert "±" not in first[search.BASE]["click1"] and "±" in first["one fusion block"]["click1"]
    before = (out / "as-shipped" / "model.safetensors").stat().st_mtime_ns
    search.main()  # what is there is not done again
    assert (out / "as-shipped" / "model.safetensors").stat().st_mtime_ns == before
    assert "one fusion block" in capsys.readouterr().out


def test_a_difference_comes_with_the_error_of_its_mean():
    base = [[0.5, 0.6], [0.7, 0.8]]
    mine = [[0.6, 0.6], [0.9, 0.8]]
    error = np.std([0.1, 0.2]) / np.sqrt(2)
    assert search._against(mine, base, 1) == f"0.750 (+0.150 ± {error:.3f})"
    assert search._against(base, None, 1) == "0.600"


def test_the_shipped_network_is_measured_at_other_sizes(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", 2, ["val", "val"])
    given = [str(tmp_path / "data"), "--out", str(tmp_path / "runs"), "--sizes", "128", "384"]
    given += ["--limit", "1", "--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", ["bench.search", *given])
    search.main()
    found = json.loads((tmp_path / "runs" / "size-128" / "report.json").read_text())
    assert np.array(found["click"]).shape == (1, search.CLICKS)
