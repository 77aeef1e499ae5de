"""Checkpoints go out and come back; a damaged or hostile one is refused in a sentence."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from model.checkpoints import FORMAT, default_checkpoint, load, save
from model.config import SMALL, SegNextConfig
from model.errors import CheckpointError
from model.prompts import Click, Prompt
from model.segnext import SegNext

TINY = replace(SMALL, size=64, dim=32, depth=1, heads=2, fusion_heads=2, neck=(8, 8, 8, 8), head=8)


def _released(model: SegNext) -> dict:
    config = model.config
    value = {
        "backbone_params": {
            "img_size": (config.size, config.size),
            "embed_dim": config.dim,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": 4,
            "global_atten_freq": config.window_freq,
        },
        "neck_params": {"out_dims": list(config.neck)},
        "head_params": {},
        "fusion_params": {
            "type": config.fusion,
            "depth": config.fusion_depth,
            "params": {"num_heads": config.fusion_heads, "mlp_ratio": 4},
        },
        "norm_radius": config.radius,
    }
    params = {name: {"type": "builtin", "value": v} for name, v in value.items()}
    return {"state_dict": model.state_dict(), "config": {"class": "x", "params": params}}


def test_a_network_survives_being_saved(tmp_path):
    torch.manual_seed(0)
    model = SegNext(TINY).eval()
    save(model, tmp_path / "a.safetensors")
    first = load(tmp_path / "a.safetensors")
    assert first.config == TINY
    save(first, tmp_path / "b.safetensors")
    second = load(tmp_path / "b.safetensors")
    assert first.encoder_fingerprint == second.encoder_fingerprint
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    answers = [
        m.decode(m.encode(image), Prompt((Click(9, 9),))).full() for m in (model, first, second)
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=5e-3)  # half precision
    np.testing.assert_array_equal(answers[1], answers[2])


@pytest.mark.parametrize("fusion_depth", [0, 1, 2])
def test_the_released_format_tells_its_own_shape(tmp_path, fusion_depth):
    shape = SegNextConfig(
        size=64, dim=24, depth=3, heads=3, fusion_depth=fusion_depth, fusion_heads=3,
        fusion="self_attention" if fusion_depth else "naive", neck=(8, 8, 8, 8), head=8,
    )  # fmt: skip
    model = SegNext(shape)
    torch.save(_released(model), tmp_path / "a.pth")
    loaded = load(tmp_path / "a.pth")
    assert loaded.config == shape
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


class _Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pth").write_bytes(
        pickle.dumps({"state_dict": _Attack(), "config": {}}, protocol=2)
    )
    torch.save({"state_dict": _Attack(), "config": {}}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(CheckpointError, match="not safe"):
            load(tmp_path / name)
    assert not (tmp_path / "attacked").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path):
    model = SegNext(TINY)
    save(model, tmp_path / "good.safetensors")
    good = (tmp_path / "good.safetensors").read_bytes()
    torch.save(_released(SegNext(SegNextConfig(size=64, dim=24, depth=1, heads=3, fusion_depth=1,
               fusion_heads=3, neck=(8, 8, 8, 8), head=8))), tmp_path / "good.pth")  # fmt: skip
    released = (tmp_path / "good.pth").read_bytes()
    files = {
        "short.safetensors": good[: len(good) // 2],
        "empty.safetensors": b"",
        "text.safetensors": b"not weights",
        "foreign.safetensors": safetensors.torch.save({"a": torch.zeros(1)}),
        "noconfig.safetensors": safetensors.torch.save(
            {"a": torch.zeros(1)}, metadata={"format": FORMAT}
        ),
        "misfit.safetensors": safetensors.torch.save(
            {"a": torch.zeros(1)}, metadata={"format": FORMAT, "config": TINY.to_json()}
        ),
        "huge.safetensors": safetensors.torch.save(
            {"a": torch.zeros(1)},
            metadata={"format": FORMAT, "config": TINY.to_json().replace("32", "9999999")},
        ),
        "short.pth": released[: len(released) // 2],
        "empty.pth": b"",
        "text.pth": b"not weights",
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"state_dict": {}, "config": {"params": {}}}, tmp_path / "hollow.pth")
    torch.save({"state_dict": 3, "config": 4}, tmp_path / "odd.pth")
    names = [*files, "list.pth", "hollow.pth", "odd.pth", "absent.pth", "absent.safetensors"]
    for name in names:
        with pytest.raises(CheckpointError, match=r"\.$"):
            load(tmp_path / name)


def test_the_weights_that_ship_load_and_are_small_enough():
    path = default_checkpoint()
    assert path.stat().st_size <= 20_000_000
    assert load(path).config.encoder == "mobilenetv2"
