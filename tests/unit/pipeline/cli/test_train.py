"""``maskloop train default`` and ``maskloop train score``, as a user calls them."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from typer.testing import CliRunner

from model.checkpoints.files import default_checkpoint, load, save
from model.errors import CheckpointError, DatasetError, RecipeError
from model.network.config import N_CONFIDENCE
from pipeline.cli import train as cli_train
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


def test_one_of_the_processes_that_train_together_speaks(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", 2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    out = tmp_path / "[run]"  # nor is its name markup
    arguments = ["default", "--config", str(tmp_path / "recipe.yaml"), "--out", str(out)]
    monkeypatch.setenv("RANK", "1")  # as torchrun says it
    for more in ([], ["--json"]):
        done = CliRunner().invoke(cli_train.app, arguments + more)
        assert done.exit_code == 0 and done.output == ""  # neither a bar nor a result
    monkeypatch.setenv("RANK", "0")
    assert f"{out / 'model.safetensors'} is trained" in run(*arguments)


def test_scores_are_fitted_in_place(tmp_path):
    write_folder(tmp_path / "data", 12)
    save(load(default_checkpoint()), tmp_path / "model.safetensors")
    run("score", tmp_path / "model.safetensors", tmp_path / "data")
    assert len(load(tmp_path / "model.safetensors").config.confidence) == N_CONFIDENCE
    with pytest.raises(DatasetError):
        run("score", tmp_path / "model.safetensors", tmp_path / "data", "--limit", "1")


def test_fitting_scores_rounds_no_weight(tmp_path):
    write_folder(tmp_path / "data", 12)
    before = load(default_checkpoint())
    with torch.no_grad():
        for parameter in before.parameters():
            parameter.mul_(1 + 1e-6)  # half precision would round this off again
    path = tmp_path / "model.safetensors"
    save(before, path, exact=True)
    run("score", path, tmp_path / "data")
    after = load(path)
    assert after.config.confidence != before.config.confidence
    assert after.encoder_fingerprint == before.encoder_fingerprint  # stored embeddings stay valid
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name


def test_scores_of_another_format_are_written_beside_it_over_nothing(tmp_path):
    write_folder(tmp_path / "data", 12)
    other, ours = tmp_path / "[a] model.pth", tmp_path / "[a] model.safetensors"
    shutil.copy(default_checkpoint(), other)
    ours.write_text("somebody's")
    with pytest.raises(CheckpointError, match=r"is there already.*\.$"):
        run("score", other, tmp_path / "data")
    assert ours.read_text() == "somebody's"
    ours.unlink()
    assert str(ours) in run("score", other, tmp_path / "data")
    assert load(ours).encoder_fingerprint == load(other).encoder_fingerprint
    assert abs(ours.stat().st_size - other.stat().st_size) < 1000  # half of it still is half
    assert other.read_bytes() == default_checkpoint().read_bytes()
