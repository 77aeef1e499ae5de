"""Scores are fitted on pictures, and the fit is stored with the weights."""

from __future__ import annotations

import pytest
import torch

from model.checkpoints.files import default_checkpoint, load, save
from model.data.datasets import read_folder
from model.errors import DatasetError
from model.evaluation.calibration import calibrate
from model.network.config import N_CONFIDENCE
from model.network.prompts import Click, Prompt
from tests.shapes import shape_picture, write_folder


def test_a_calibrated_network_keeps_its_scores_through_a_file(tmp_path):
    write_folder(tmp_path / "data", 12)
    model = load(default_checkpoint())
    model.config = calibrate(model, read_folder(tmp_path / "data"))
    assert len(model.config.confidence) == N_CONFIDENCE
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert again.config == model.config
    image, _ = shape_picture(3, (96, 128))
    prompt = Prompt((Click(48, 64),))
    scores = [each.decode(each.encode(image), prompt).score for each in (model, again)]
    assert scores[0] == pytest.approx(scores[1], abs=0.01) and 0 < scores[0] < 1


def test_a_fit_does_not_change_masks(tmp_path):
    write_folder(tmp_path / "data", 12)
    model = load(default_checkpoint())
    image, _ = shape_picture(5, (96, 128))
    embedding, prompt = model.encode(image), Prompt((Click(48, 64),))
    before = model.decode(embedding, prompt).logits
    model.config = calibrate(model, read_folder(tmp_path / "data"))
    assert torch.equal(before, model.decode(embedding, prompt).logits)


def test_too_few_answers_are_refused(tmp_path):
    write_folder(tmp_path / "data", 1)
    model = load(default_checkpoint())
    with pytest.raises(DatasetError, match=r"too few.*\.$"):
        calibrate(model, read_folder(tmp_path / "data"))
