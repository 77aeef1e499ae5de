"""``maskloop train text``, from a folder or from accepted masks to a version that knows words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from model.checkpoints.files import load, save
from model.errors import CheckpointError, DatasetError, MaskloopError
from model.network.prompts import Prompt
from pipeline.cli import app as cli
from pipeline.errors import NotEnoughDataError
from pipeline.record import versions
from pipeline.training.text import accepted_pictures
from tests.loop import Loop, command_loop, tiny_model
from tests.shapes import COLOURS, named_picture, write_named_folder

SHORT = ("--steps", "2", "--batch", "2")


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    return command_loop(tmp_path, monkeypatch)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli.app, [str(each) for each in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def test_a_folder_with_names_becomes_a_version_that_knows_words(loop: Loop, tmp_path: Path) -> None:
    data, out = tmp_path / "set", tmp_path / "new" / "words.safetensors"
    write_named_folder(data, range(4), "train", size=64)
    write_named_folder(data, range(4, 6), "val", size=64)
    options = ("--split", "train", "--check", "val", "--out", out, *SHORT)
    report = json.loads(run("train", "text", data, *options, "--json"))
    assert report["checkpoint"] == str(out) and report["tower"] == "small"
    assert report["pictures"] == 4 and set(report["names"]) <= set(COLOURS)
    assert report["checked"]["pictures"] == 2 and 0 <= report["checked"]["miou"] <= 1
    assert list(out.parent.iterdir()) == [out]  # nothing of the work is left behind
    model = load(out)
    answer = model.decode(model.encode(named_picture(9, 64)[0]), Prompt(text="red circle"))
    assert answer.mask().shape == (64, 64)
    added = json.loads(run("models", "add", out, "--json"))
    with loop.runtime.sessions() as session:
        version = versions.find(session, added["name"])
    again = loop.runtime.registry.load(version)
    assert again.config.text_tower == "small"
    # The next training goes on with the words of that version.
    told = run("train", "text", data, "--base", added["name"], "--out", out, *SHORT)
    assert "red circle" in told and "maskloop models add" in told


def test_accepted_masks_teach_their_labels_and_the_hold_out_is_only_measured(
    loop: Loop, tmp_path: Path
) -> None:
    loop.accept_many(3, 2)
    out = tmp_path / "words.safetensors"
    report = json.loads(run("train", "text", "--out", out, *SHORT, "--json"))
    assert report["pictures"] == 3 and report["names"] == ["object"]
    assert report["checked"]["pictures"] == 2 and report["checked"]["words"] == 2
    assert report["checked"]["absent_area"] is None  # there is no other word
    model = load(out)
    (first, *_), held = (
        accepted_pictures(loop.runtime, model, split) for split in ("train", "holdout")
    )
    embedding, masks, known = first.load()
    assert masks["object"].shape == known.shape == embedding.image_size and known.all()
    assert len({picture.key for picture in (first, *held)}) == 3


def test_of_a_base_in_single_precision_nothing_is_rounded(loop: Loop, tmp_path: Path) -> None:
    data, base, out = tmp_path / "set", tmp_path / "exact.safetensors", tmp_path / "w.safetensors"
    write_named_folder(data, range(2), size=64)
    before = tiny_model(5)
    save(before, base, exact=True)
    run("train", "text", data, "--base", base, "--out", out, *SHORT)
    after = load(out)
    assert after.encoder_fingerprint == before.encoder_fingerprint  # stored embeddings stay valid
    now = after.state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, now[name]), name  # so do the masks of clicks, bit for bit


def test_a_killed_run_goes_on(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "set", tmp_path / "words.safetensors"
    write_named_folder(data, range(3), size=64)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.training.text.save", die)  # after the last step
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            run("train", "text", data, "--out", out, *SHORT)
    state = out.with_name("words.safetensors.work") / "state.pt"
    assert state.is_file() and not out.exists()
    with pytest.raises(CheckpointError, match=r"start again\.$"):
        run("train", "text", data, "--out", out, *SHORT, "--seed", "7")
    run("train", "text", data, "--out", out, *SHORT)
    assert out.is_file() and not state.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        (["--out", "words.pth"], CheckpointError, "end it in .safetensors"),
        ([], NotEnoughDataError, "No mask is accepted yet"),
        (["--split", "train"], DatasetError, "give FOLDER, or leave out --split"),
        (["--check", "val"], DatasetError, "give FOLDER, or leave out --split"),
        (["absent"], DatasetError, "manifest.jsonl"),
        (["set", "--base", "absent"], CheckpointError, "neither a file nor a model version"),
        (["set", "--tower", "NoModel/tag"], CheckpointError, "no text tower"),
        (["set", "--split", "test"], DatasetError, "split 'test'"),
        (["unnamed"], DatasetError, "name them in manifest.jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    loop: Loop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[MaskloopError],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_named_folder(tmp_path / "set", range(2), size=64)
    write_named_folder(tmp_path / "unnamed", range(2), size=64)
    manifest = tmp_path / "unnamed" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"categories"', '"other"'))
    with pytest.raises(error, match=reason) as raised:
        run("train", "text", *arguments, *SHORT)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)
