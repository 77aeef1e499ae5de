"""``maskloop train default`` and ``maskloop train score``, as a user calls them."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from model.checkpoints import default_checkpoint, load, save
from model.config import N_CONFIDENCE
from model.errors import DatasetError, RecipeError
from pipeline import cli_train
from tests.shapes import write_folder

RECIPE = {
    "data": [{"folder": "data"}],
    "shape": {"size": 96, "dim": 32, "depth": 1, "heads": 2, "fusion_heads": 2, "detail": 8},
    "steps": 2,
    "images": 1,
    "targets": 2,
    "crop": 64,
    "bf16": False,
    "workers": 0,
}


def run(*arguments):
    done = CliRunner().invoke(cli_train.app, [str(each) for each in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_recipe_becomes_a_checkpoint(tmp_path):
    write_folder(tmp_path / "data", 2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    out = tmp_path / "run"
    told = json.loads(run("default", "--config", tmp_path / "recipe.yaml", "--out", out, "--json"))
    assert load(out / "model.safetensors").config.dim == 32
    assert told["checkpoint"] == str(out / "model.safetensors") and (out / "log.csv").is_file()
    with pytest.raises(RecipeError):
        run("default", "--config", tmp_path / "absent.yaml", "--out", out)


def test_scores_are_fitted_in_place(tmp_path):
    write_folder(tmp_path / "data", 12)
    save(load(default_checkpoint()), tmp_path / "model.safetensors")
    run("score", tmp_path / "model.safetensors", tmp_path / "data")
    assert len(load(tmp_path / "model.safetensors").config.confidence) == N_CONFIDENCE
    with pytest.raises(DatasetError):
        run("score", tmp_path / "model.safetensors", tmp_path / "data", "--limit", "1")
