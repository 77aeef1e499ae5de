"""Training learns, resumes to the step, and a fine-tune leaves the encoder alone, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.checkpoints import load, save
from model.config import SMALL
from model.datasets import read_folder
from model.errors import CheckpointError, DatasetError
from model.evaluation import click_curve
from model.finetune import FineTuneConfig, finetune
from model.segnext import SegNext
from model.training import TrainConfig, load_backbone, train
from tests.shapes import shape_picture, write_folder

TINY = replace(SMALL, size=96, dim=32, depth=1, heads=2, fusion_heads=2, neck=(8, 8, 8, 8), head=8)
RUN = TrainConfig(steps=4, images=1, targets=2, crop=64, warmup=1, bf16=False, save_every=2)


def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    write_folder(tmp_path / "data", 2)
    items = read_folder(tmp_path / "data")
    unbroken = train(items, RUN, tmp_path / "unbroken", TINY)
    # A kill after step 2: the state that was saved then is all that is left of the run.
    killed = tmp_path / "killed"
    saved = []
    original = torch.save

    def save_and_die(state, path):
        original(state, path)
        saved.append(state["step"])
        if state["step"] == 2 and len(saved) == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            train(items, RUN, killed, TINY)
    (killed / "state.tmp").rename(killed / "state.pt")
    resumed = train(items, RUN, killed, TINY)
    assert saved == [2]
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert load(killed / "model.safetensors").config == TINY


def test_a_state_of_another_run_is_refused(tmp_path):
    write_folder(tmp_path / "data", 1)
    items = read_folder(tmp_path / "data")
    (tmp_path / "state.pt").write_bytes(b"")
    torch.save({"step": 1}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"\.$"):
        train(items, RUN, tmp_path, TINY)
    with pytest.raises(CheckpointError, match="warm start"):
        train(items, RUN, tmp_path / "new", TINY, warm_start=tmp_path / "absent.pth")
    save(SegNext(TINY), tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="another shape"):
        wider = replace(TINY, head=16)
        train(items, RUN, tmp_path / "new", wider, weights=tmp_path / "tiny.safetensors")


def test_a_run_starts_from_the_weights_of_another(tmp_path):
    write_folder(tmp_path / "data", 1)
    source = SegNext(TINY)
    save(source, tmp_path / "tiny.safetensors")
    still = replace(RUN, steps=1, learning_rate=0.0)
    items = read_folder(tmp_path / "data")
    trained = train(items, still, tmp_path / "run", TINY, weights=tmp_path / "tiny.safetensors")
    for ours, theirs in zip(trained.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.half().float())


def test_a_warm_start_fills_the_backbone_and_a_partial_one_is_refused(tmp_path):
    torch.manual_seed(1)
    source = SegNext(TINY).backbone.get_submodule("backbone").state_dict()
    torch.save(source | {"conv_head.weight": torch.zeros(1)}, tmp_path / "a.pth")
    model = SegNext(TINY)
    load_backbone(model, tmp_path / "a.pth")
    assert torch.equal(
        model.backbone.get_submodule("backbone").state_dict()["conv_stem.weight"],
        source["conv_stem.weight"],
    )
    source.pop("conv_stem.weight")
    torch.save(source, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"conv_stem.weight"):
        load_backbone(model, tmp_path / "b.pth")


def test_a_fine_tune_learns_from_embeddings_and_keeps_the_encoder():
    torch.manual_seed(0)
    base = SegNext(TINY).eval()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    samples, held = [], []
    for seed in range(8):
        image, indices = shape_picture(seed, (96, 96))
        embedding = base.encode(image)
        for index in (1, 2):
            (held if seed >= 6 else samples).append((embedding, indices == index))
    seen = []
    config = FineTuneConfig(steps=150, batch=6, learning_rate=3e-3)
    tuned = finetune(base, samples, config, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (150, 150)
    for name, tensor in base.state_dict().items():
        assert torch.equal(tensor, before[name])
    for name, tensor in tuned.backbone.state_dict().items():
        assert torch.equal(tensor, before[f"backbone.{name}"])
    assert tuned.encoder_fingerprint == base.encoder_fingerprint
    old, new = (
        np.mean([click_curve(model, e, mask, clicks=3)[0][0] for e, mask in held])
        for model in (base, tuned)
    )
    assert new > old + 0.2


def test_a_fine_tune_with_nothing_to_learn_from_says_so():
    model = SegNext(TINY).eval()
    embedding = model.encode(np.zeros((96, 96, 3), np.uint8))
    for samples in ([], [(embedding, np.zeros((96, 96), bool))]):
        with pytest.raises(DatasetError, match="no accepted mask"):
            finetune(model, samples, FineTuneConfig(steps=1))
    with pytest.raises(DatasetError, match="does not fit"):
        finetune(model, [(embedding, np.ones((5, 5), bool))], FineTuneConfig(steps=1))
