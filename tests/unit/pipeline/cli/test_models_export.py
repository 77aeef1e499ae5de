"""``maskloop models export``, as a user calls it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from model.errors import CheckpointError, ExportError
from pipeline.cli import models as cli_models
from tests.loop import base_checkpoint, command_loop


@pytest.fixture
def loop(tmp_path, monkeypatch):
    return command_loop(tmp_path, monkeypatch)


def run(*arguments):
    done = CliRunner().invoke(cli_models.app, ["export", *(str(each) for each in arguments)])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_version_and_a_file_become_two_files(loop, tmp_path):
    told = json.loads(run("base", "--out", tmp_path / "version", "--json"))
    assert [each["file"] for each in told["files"]] == [
        str(tmp_path / "version" / "encoder.onnx"),
        str(tmp_path / "version" / "decoder.onnx"),
    ]
    assert told["answers"] == 12
    assert told["logits_difference"] <= 1e-3 and told["mask_iou"] >= 0.999
    shown = run(base_checkpoint(tmp_path), "--out", tmp_path / "file")
    assert "encoder.onnx" in shown and "logits differ by at most" in shown
    sizes = [
        [(tmp_path / folder / name).stat().st_size for name in ("encoder.onnx", "decoder.onnx")]
        for folder in ("version", "file")
    ]
    assert sizes[0] == sizes[1]


def test_what_cannot_be_exported_is_said_in_a_sentence(loop, tmp_path):
    with pytest.raises(CheckpointError, match=r"v9 is neither a file nor a model version; .*\.$"):
        run("v9", "--out", tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"no\.pth.*\.$"):
        run(tmp_path / "no.pth", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").touch()
    with pytest.raises(ExportError, match=r"cannot be written .*; give another folder\.$"):
        run("base", "--out", tmp_path / "out")
