"""A network learns words: the right word gives the right object, a word for nothing in the picture
gives nothing, and a click corrects a wrong answer to a word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.checkpoints.files import load, save
from model.data.datasets import read_folder
from model.errors import CheckpointError, DatasetError
from model.evaluation.simulation import next_click
from model.masks import iou
from model.network.prompts import Click, Prompt
from model.network.segnext import SegNext
from model.training.named_pictures import FolderPicture, Words, draw, encode_pictures
from model.training.text_evaluation import measure_text
from model.training.text_training import TextTrainConfig, train_text, with_branch
from tests.clip import NAME, make_clip
from tests.shapes import COLOURS, write_named_folder
from tests.words import teach, tiny

RUN = TextTrainConfig(depth=1, steps=4, batch=2, save_every=2)


@pytest.fixture(scope="module")
def base() -> SegNext:
    return tiny(size=64, dim=16, width=8)


@pytest.fixture(scope="module")
def pictures(base: SegNext, tmp_path_factory: pytest.TempPathFactory) -> list[FolderPicture]:
    folder = tmp_path_factory.mktemp("named")
    write_named_folder(folder, range(4), size=64)
    return encode_pictures(base, read_folder(folder), folder / "embeddings")


# --- what it learns ---


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegNext, list[FolderPicture]]:
    """A network that learned words from a hundred pictures, and twenty others."""
    return teach(tmp_path_factory.mktemp("taught"))


@pytest.mark.slow
def test_the_right_word_gives_the_right_object_and_another_word_another(taught):
    model, held = taught
    right, wrong = [], []
    for picture in held:
        embedding, masks, _ = picture.load()
        for name in masks:
            answer = model.decode(embedding, Prompt(text=name)).mask()
            right.append(iou(answer, masks[name]))
            wrong += [iou(answer, mask) for other, mask in masks.items() if other != name]
    assert len(right) > 30 and np.mean(right) > 0.7
    assert len(wrong) > 20 and np.mean(wrong) < 0.05


@pytest.mark.slow
def test_a_word_for_nothing_in_the_picture_gives_nearly_nothing(taught):
    model, held = taught
    absent, never_learned, objects = [], [], []
    for picture in held:
        embedding, masks, _ = picture.load()
        objects += [mask.mean() for mask in masks.values()]
        for names, areas in (
            (set(COLOURS) - set(masks), absent),
            ({"elephant", "a rusty bicycle"}, never_learned),
        ):
            areas += [model.decode(embedding, Prompt(text=name)).mask().mean() for name in names]
    assert np.mean(absent) < 0.1 * np.mean(objects)
    assert np.mean(never_learned) < 0.1 * np.mean(objects)


@pytest.mark.slow
def test_a_click_corrects_what_a_word_got_wrong(taught):
    model, held = taught
    before, after = [], []
    for picture in held:
        embedding, masks, _ = picture.load()
        for name, target in masks.items():
            answer = model.decode(embedding, Prompt(text=name))
            click = next_click(target, answer.mask(), np.zeros_like(target))
            prompt = Prompt((click,), mask=answer.probability, text=name)
            before.append(iou(answer.mask(), target))
            after.append(iou(model.decode(embedding, prompt).mask(), target))
    first, second = np.array(before), np.array(after)
    bad = first < 0.7
    assert bad.sum() >= 3 and second[bad].mean() > first[bad].mean() + 0.15
    assert second.mean() > first.mean() and (second < first - 0.1).mean() < 0.1
    report = measure_text(model, held)
    assert report["miou"] == pytest.approx(first.mean(), abs=1e-3)
    assert report["miou_click"] == pytest.approx(second.mean(), abs=1e-3)
    assert report["pictures"] == 20 and report["words"] == len(before)
    assert report["absent"] == 20 * len(COLOURS) - len(before) and report["absent_area"] < 0.02


# --- what does not change, and resuming ---


def test_without_the_decoder_prompts_without_text_are_answered_as_before(base, pictures, tmp_path):
    trained = train_text(base, pictures, RUN, tmp_path / "state.pt")
    embedding = pictures[0].load()[0]
    click = Prompt((Click(20, 20),))
    assert torch.equal(
        trained.decode(embedding, click).logits, base.decode(embedding, click).logits
    )
    with_word = trained.decode(embedding, replace(click, text="red circle")).logits
    assert not torch.equal(with_word, base.decode(embedding, click).logits)
    assert trained.encoder_fingerprint == base.encoder_fingerprint
    assert base.text_branch is None and base.config.text_tower == ""
    along = train_text(base, pictures, replace(RUN, decoder=0.5), tmp_path / "along.pt")
    assert not torch.equal(
        along.decode(embedding, click).logits, base.decode(embedding, click).logits
    )
    assert along.encoder_fingerprint == base.encoder_fingerprint
    save(trained, tmp_path / "words.safetensors")
    assert load(tmp_path / "words.safetensors").config == trained.config


def test_a_run_that_was_killed_goes_on_to_the_same_weights(base, pictures, tmp_path):
    unbroken = train_text(base, pictures, RUN, tmp_path / "unbroken.pt")

    def die(done: int, total: int | None) -> None:
        if done == 3:  # after the state of step 2 was saved
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_text(base, pictures, RUN, tmp_path / "killed.pt", die)
    steps = []
    resumed = train_text(
        base, pictures, RUN, tmp_path / "killed.pt", lambda done, total: steps.append(done)
    )
    assert steps == [3, 4]
    for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_state_of_another_run_is_refused(base, pictures, tmp_path):
    state = tmp_path / "state.pt"
    train_text(base, pictures, RUN, state)
    for other in (replace(RUN, seed=1), replace(RUN, steps=5)):
        with pytest.raises(CheckpointError, match=r"other pictures, settings or base.*\.$"):
            train_text(base, pictures, other, state)
    with pytest.raises(CheckpointError, match="other pictures"):
        train_text(base, pictures[:3], RUN, state)
    whole = state.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        state.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"cannot be read.*start again\.$"):
            train_text(base, pictures, RUN, state)


def test_a_branch_on_the_same_tower_is_trained_further(base, pictures, tmp_path):
    first = train_text(base, pictures, RUN, tmp_path / "state.pt")
    again = with_branch(first, RUN)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
    deeper = with_branch(first, replace(RUN, depth=2))
    assert deeper.config.text_depth == 2 and not deeper.text_branch.out.weight.any()


def test_a_pretrained_tower_stays_frozen_while_the_branch_learns(base, pictures, tmp_path):
    name = f"{NAME}:{make_clip(tmp_path)}"
    trained = train_text(base, pictures, replace(RUN, tower=name), tmp_path / "state.pt")
    assert trained.config.text_tower == name and trained.config.text_dim == 16
    assert trained.text_branch.out.weight.any() and trained.text_branch.probe.any()
    save(trained, tmp_path / "words.safetensors")
    embedding = pictures[0].load()[0]
    answers = [
        model.decode(embedding, Prompt(text="red circle")).probability
        for model in (trained, load(tmp_path / "words.safetensors"))
    ]
    np.testing.assert_allclose(*answers, atol=2e-2)
    with pytest.raises(CheckpointError, match="no text tower"):
        train_text(base, pictures, replace(RUN, tower="nothing"), tmp_path / "other.pt")


# --- what is drawn ---


def write_picture(folder: Path, name: str, indices: np.ndarray, **entry: object) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (*indices.shape, 3), np.uint8)
    Image.fromarray(noise).save(folder / f"images/{name}.png")
    Image.fromarray(indices, "L").convert("P").save(folder / f"masks/{name}.png")
    with (folder / "manifest.jsonl").open("a") as manifest:
        paths = {"image": f"images/{name}.png", "mask": f"masks/{name}.png"}
        manifest.write(json.dumps(paths | entry) + "\n")


@pytest.fixture
def indices() -> np.ndarray:
    """Four stripes with background between them: instances 1, 2 and 3, and ignored pixels."""
    made = np.zeros((64, 64), np.uint8)
    for at, index in ((0, 1), (16, 2), (32, 3), (48, 255)):
        made[:, at : at + 12] = index
    return made


def test_a_word_means_all_objects_of_its_name_and_unnamed_ones_do_not_count(
    base, indices, tmp_path
):
    write_picture(tmp_path, "a", indices, categories={"1": "cat", "2": "cat", "9": "dog"})
    write_picture(tmp_path, "b", indices)
    write_picture(tmp_path, "c", indices, categories={})
    pictures = encode_pictures(base, read_folder(tmp_path), tmp_path / "embeddings")
    assert [picture.names for picture in pictures] == [("cat",), ()]
    _, masks, known = pictures[0].load()
    assert np.array_equal(masks["cat"], np.isin(indices, [1, 2]))
    assert np.array_equal(known, np.isin(indices, [0, 1, 2]))
    words, rng = Words(["cat", "dog"], closed=True), np.random.default_rng(0)
    drawn = [draw(base, pictures[0], words, False, rng) for _ in range(200)]
    said = [each.prompt.text for each in drawn]
    for each in drawn:
        assert each.target.any() == (each.prompt.text == "cat")
        assert not (each.target & ~each.known).any()
    assert 0.6 < np.mean([text == "cat" for text in said]) < 0.9
    assert "dog" in said and len(set(said)) > 10  # also words that the set does not know
    assert sum(each.prompt.has_marks or each.prompt.mask is not None for each in drawn) > 20
    assert None in [draw(base, pictures[0], words, True, rng).prompt.text for _ in range(50)]
    open_words = Words(["cat", "dog"], closed=False)
    said = [draw(base, pictures[0], open_words, False, rng).prompt.text for _ in range(50)]
    assert set(said) == {"cat", "dog"}  # other words may still mean something
    nothing = [draw(base, pictures[1], words, True, rng) for _ in range(20)]
    assert not any(each.target.any() for each in nothing)


def test_a_picture_is_encoded_once(base, indices, tmp_path):
    write_picture(tmp_path, "a", indices, category="stripe")
    items, folder = read_folder(tmp_path), tmp_path / "embeddings"
    seen: list[tuple[int, int | None]] = []
    first = encode_pictures(base, items, folder, lambda done, total: seen.append((done, total)))
    written = first[0].embedding.stat().st_mtime_ns
    assert encode_pictures(base, items, folder) == first and seen == [(1, 1)]
    assert first[0].embedding.stat().st_mtime_ns == written
    assert first[0].names == ("stripe",)


def test_a_set_that_names_nothing_or_does_not_fit_is_refused(base, indices, tmp_path):
    write_picture(tmp_path / "unnamed", "a", indices)
    write_picture(tmp_path / "empty", "a", indices, categories={"7": "cat"})
    for folder in ("unnamed", "empty"):
        with pytest.raises(DatasetError, match=r'"category": "cat"\.$'):
            encode_pictures(base, read_folder(tmp_path / folder), tmp_path / "embeddings")
    write_picture(tmp_path / "odd", "a", indices, category="cat")
    Image.fromarray(indices[:32], "L").convert("P").save(tmp_path / "odd/masks/a.png")
    with pytest.raises(DatasetError, match=r"size.*\.$"):
        encode_pictures(base, read_folder(tmp_path / "odd"), tmp_path / "embeddings")
    with pytest.raises(DatasetError, match="name them"):
        measure_text(base, [])
