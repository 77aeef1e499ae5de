"""The names that ``model`` offers, and that asking for none of them costs nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import model
from model.errors import CheckpointError


def test_importing_model_and_its_errors_imports_no_torch() -> None:
    code = "import sys, model, model.errors; print('torch' in sys.modules, *dir(model))"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    torch_is_there, *names = done.stdout.split()
    assert torch_is_there == "False"
    assert set(model.__all__) <= set(names)


def test_every_public_name_exists_and_others_do_not() -> None:
    for name in model.__all__:
        assert getattr(model, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = model.nothing_of_this_name


def test_the_public_names_answer_a_prompt() -> None:
    network = model.load_model()
    assert isinstance(network, model.SegNext) and not network.training
    embedding = network.encode(np.zeros((60, 80, 3), np.uint8))
    assert isinstance(embedding, model.Embedding)
    prompt = model.Prompt(
        clicks=(model.Click(20, 30),),
        boxes=(model.Box(10, 10, 40, 50),),
        polygons=(model.Polygon(((10, 10), (40, 10), (40, 50))),),
        scribbles=(model.Scribble(((20, 20), (30, 40))),),
    )
    prediction = network.decode(embedding, prompt)
    assert isinstance(prediction, model.Prediction)
    assert prediction.mask().shape == (60, 80)


def test_load_model_takes_a_path_and_refuses_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        model.load_model(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        model.load_model(str(tmp_path / "absent.safetensors"))
