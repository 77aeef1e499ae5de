"""A run can be resumed at its step; a fine-tune learns and leaves the encoder as it is."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoints.files import load, save
from model.errors import CheckpointError, DatasetError
from model.evaluation.curves import click_curve
from model.network.config import SMALL
from model.network.segnext import SegNext
from model.training.finetune import FineTuneConfig, finetune
from model.training.recipe import DataSource, Recipe
from model.training.train import load_backbone, train
from tests.shapes import shape_picture, write_folder

SHAPE = {
    "size": 96,
    "dim": 32,
    "depth": 1,
    "heads": 2,
    "fusion_heads": 2,
    "neck": (8, 8, 8, 8),
    "head": 8,
}
TINY = replace(SMALL, **SHAPE)


def recipe(folder, **changes):
    """A run of four steps on ``folder``."""
    plain = Recipe(
        data=[DataSource(folder)],
        shape=SHAPE,
        steps=4,
        images=1,
        targets=2,
        crop=64,
        warmup=1,
        bf16=False,
        workers=0,
        save_every=2,
    )
    return replace(plain, **changes)


def test_a_run_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    write_folder(tmp_path / "data", 2)
    run = recipe(tmp_path / "data")
    unbroken = train(run, tmp_path / "unbroken")
    # A kill after step 2: the state that was saved then is all that is left of the run.
    killed = tmp_path / "killed"
    saved = []
    original = torch.save

    def save_and_note(state, file):
        original(state, file)
        saved.append(state["step"])

    def die(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", save_and_note)
        with pytest.raises(KeyboardInterrupt):
            train(run, killed, progress=die)
    resumed = train(run, killed)
    assert saved == [2]
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert load(killed / "model.safetensors").config == TINY


def test_a_run_killed_at_its_end_is_finished_by_the_next_call(tmp_path, monkeypatch):
    write_folder(tmp_path / "data", 2)
    run = recipe(tmp_path / "data", validation=DataSource(tmp_path / "data", limit=1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as kill:
        kill.setattr("model.training.train._validate", killed)
        with pytest.raises(KeyboardInterrupt):
            train(run, tmp_path / "run")
    finished = train(run, tmp_path / "run")
    kept = load(tmp_path / "run" / "model.safetensors")
    assert torch.equal(kept.head.seg_conv.bias, finished.head.seg_conv.bias.half().float())
    last = (tmp_path / "run" / "log.csv").read_text().splitlines()[-1]
    assert last.startswith("4,") and not last.endswith(",")


def test_a_set_without_large_enough_targets_is_refused(tmp_path):
    write_folder(tmp_path / "data", 1)
    mask = tmp_path / "data/masks/shape0.png"
    Image.fromarray(np.zeros_like(np.asarray(Image.open(mask)))).save(mask)
    with pytest.raises(DatasetError, match="larger"):
        train(recipe(tmp_path / "data"), tmp_path / "run")


def test_a_state_of_another_run_is_refused(tmp_path):
    write_folder(tmp_path / "data", 1)
    run = recipe(tmp_path / "data")
    torch.save({"step": 1}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match=r"\.$"):
        train(run, tmp_path)
    with pytest.raises(CheckpointError, match="warm start"):
        train(replace(run, warm_start=tmp_path / "absent.pth"), tmp_path / "new")
    save(SegNext(TINY), tmp_path / "tiny.safetensors")
    with pytest.raises(CheckpointError, match="another shape"):
        wider = SHAPE | {"head": 16}
        train(replace(run, shape=wider, weights=tmp_path / "tiny.safetensors"), tmp_path / "new")


def test_a_run_starts_from_the_weights_of_another(tmp_path):
    write_folder(tmp_path / "data", 1)
    source = SegNext(TINY)
    save(source, tmp_path / "tiny.safetensors")
    weights = tmp_path / "tiny.safetensors"
    still = recipe(tmp_path / "data", steps=1, learning_rate=0.0, weights=weights)
    trained = train(still, tmp_path / "run")
    for ours, theirs in zip(trained.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.half().float())


def test_the_log_holds_loss_time_waiting_and_validation(tmp_path):
    write_folder(tmp_path / "data", 2)
    source = DataSource(tmp_path / "data", limit=1)
    seen = []
    run = recipe(tmp_path / "data", validation=source, validate_every=4, edge=1.0)
    train(run, tmp_path / "run", progress=lambda done, total: seen.append((done, total)))
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["2", "4"] and seen[-1] == (4, 4)
    assert rows[0]["miou1"] == "" and 0 <= float(rows[1]["miou5"]) <= 1
    assert all(0 <= float(row["waited"]) <= float(row["seconds"]) + 0.1 for row in rows)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Each process draws its own crops; the gradients are averaged, so the weights agree."""
    write_folder(tmp_path / "data", 2)
    script = tmp_path / "both.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", str(script), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, second = (load(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    alone = train(recipe(tmp_path / "data"), tmp_path / "alone")
    pairs = zip(first.parameters(), alone.parameters(), strict=True)
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in pairs)
    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 3


TWO_PROCESSES = """
import os, sys
from pathlib import Path
from model.checkpoints.files import save
from model.training.train import train
from tests.unit.model.training.test_train import recipe

folder = Path(sys.argv[1])
model = train(recipe(folder / "data"), folder / "run")
save(model, folder / f"{os.environ['RANK']}.safetensors")
"""


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
    for damaged in (b"", b"no pickle", (tmp_path / "a.pth").read_bytes()[:1000]):
        (tmp_path / "c.pth").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"c.pth is no warm start"):
            load_backbone(model, tmp_path / "c.pth")


def test_a_picture_that_cannot_be_read_ends_a_run_with_a_sentence(tmp_path):
    write_folder(tmp_path / "data", 1)
    (tmp_path / "data/images/shape0.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError) as raised:
        train(recipe(tmp_path / "data", workers=1), tmp_path / "run")
    assert "\n" not in str(raised.value) and str(raised.value).endswith(".")


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
        np.mean([click_curve(model, e, mask, clicks=3).iou[0] for e, mask in held])
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


def test_a_fine_tune_that_was_killed_ends_with_the_weights_of_an_unbroken_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("model.training.finetune.SAVE_SECONDS", 0.0)
    torch.manual_seed(0)
    base = SegNext(TINY).eval()
    image, indices = shape_picture(1, (96, 96))
    samples = [(base.encode(image), indices == index) for index in (1, 2)]
    config = FineTuneConfig(steps=6, batch=2, learning_rate=1e-3)
    whole = finetune(base, samples, config)
    state = tmp_path / "state.pt"

    def die(done, _total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(base, samples, config, die, state=state)
    steps = []
    resumed = finetune(base, samples, config, lambda done, _: steps.append(done), state=state)
    assert steps == [4, 5, 6]
    assert not state.exists()
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_of_another_fine_tune_or_a_damaged_one_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("model.training.finetune.SAVE_SECONDS", 0.0)
    base = SegNext(TINY).eval()
    image, indices = shape_picture(1, (96, 96))
    samples = [(base.encode(image), indices == index) for index in (1, 2)]
    state = tmp_path / "state.pt"

    def die(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(base, samples, FineTuneConfig(steps=2, batch=2), die, state=state)
    for data in (state.read_bytes(), b"no pickle", b""):
        state.write_bytes(data)
        steps = []
        other = FineTuneConfig(steps=3, batch=2)
        finetune(base, samples, other, lambda done, _, seen=steps: seen.append(done), state=state)
        assert steps == [1, 2, 3]
