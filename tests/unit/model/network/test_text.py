"""Words as a prompt: vectors, the branch that asks the image, and pretrained towers by file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoints.files import load, save
from model.errors import CheckpointError, PromptError
from model.network.config import SMALL, SegNextConfig
from model.network.prompts import Click, Prompt, check_prompt
from model.network.segnext import SegNext
from model.network.text import TextBranch
from model.network.text_tower import dictionary, pretrained_tower, tower_dim
from tests.clip import make_clip

TINY = replace(SMALL, size=96, dim=32, depth=1, heads=2, fusion_heads=2, neck=(8, 8, 8, 8), head=8)
WORDS = replace(TINY, text_tower="small", text_dim=16, text_depth=1)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)


@pytest.fixture(scope="module")
def model() -> SegNext:
    """A network whose text branch changes answers, as if it were trained."""
    torch.manual_seed(0)
    made = SegNext(WORDS).eval()
    torch.nn.init.normal_(made.text_branch.out.weight)
    return made


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    return make_clip(tmp_path)


def test_texts_become_unit_vectors_and_no_text_becomes_zeros(model):
    vectors = model.text_branch.vectors(["a red circle", None, "dog", "  a red   circle "])
    assert vectors.dtype == torch.float32 and vectors.shape == (4, 16)
    torch.testing.assert_close(vectors.norm(dim=1), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert torch.equal(vectors[0], vectors[3]) and not torch.allclose(vectors[0], vectors[2])
    long = model.text_branch.vectors(["words " * 33, "{}{0}%s \N{GRINNING FACE}"])
    assert torch.isfinite(long).all()


def test_the_dictionary_holds_words_and_nothing_else():
    words = dictionary()
    assert len(words) > 20_000 and {"horse", "triangle", "paint"} <= set(words)
    assert all(word.isalpha() and word.islower() for word in words)


def test_text_changes_the_masks_of_prompts_that_have_it_and_of_no_others(model, image):
    embedding = model.encode(image)
    click = Prompt((Click(20, 30),))
    both = replace(click, text="dog")
    alone = model.decode(embedding, click).logits
    mixed = model.decode_many(embedding, [click, both, Prompt(text="dog"), Prompt(text="red car")])
    torch.testing.assert_close(mixed[0].logits, alone)
    for a, b in ((0, 1), (1, 2), (2, 3)):
        assert (mixed[a].logits - mixed[b].logits).abs().max() > 1e-2
    dense = model.text_branch(torch.randn(2, 32, 4, 6), model.text_branch.vectors([None, "dog"]))
    assert dense.shape == (2, 32, 4, 6) and dense[1].any() and not dense[0].any()


def test_a_new_branch_changes_nothing_at_first(image):
    torch.manual_seed(1)
    base, grown = SegNext(TINY).eval(), SegNext(WORDS).eval()
    missing = grown.load_state_dict(base.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(key.startswith("text_branch.") for key in missing.missing_keys)
    embedding = base.encode(image)
    click = Prompt((Click(20, 30),))
    before = base.decode(embedding, click).logits
    assert torch.equal(grown.decode(embedding, click).logits, before)
    assert torch.equal(grown.decode(embedding, replace(click, text="dog")).logits, before)
    assert grown.encoder_fingerprint == base.encoder_fingerprint
    trained = {id(parameter) for parameter in grown.decoder_parameters()}
    assert trained >= {id(parameter) for parameter in grown.text_branch.parameters()}


def test_a_network_without_words_says_so(image):
    model = SegNext(TINY).eval()
    embedding = model.encode(image)
    with pytest.raises(PromptError, match=r"knows no words.*maskloop train text`\.$"):
        model.decode(embedding, Prompt((Click(1, 1),), text="dog"))


@pytest.mark.parametrize("text", ["", "  ", "a" * 201, "a\0b", "a\nb", "\ud800"])
def test_a_text_that_means_nothing_is_refused(text):
    with pytest.raises(PromptError, match=r"\.$"):
        check_prompt(Prompt(text=text))


def test_a_checkpoint_carries_its_small_tower_and_nothing_of_text_without_one(
    model, image, tmp_path
):
    save(model, tmp_path / "words.safetensors")
    back = load(tmp_path / "words.safetensors")
    assert back.config == WORDS
    embedding, prompt = model.encode(image), Prompt(text="a red circle")
    torch.testing.assert_close(
        back.decode(embedding, prompt).probability,
        model.decode(embedding, prompt).probability,
        atol=2e-2,
        rtol=0,
    )
    plain = SegNext(TINY)
    assert "text" not in TINY.to_json()  # as written, and read, before there was text
    assert not any("text" in name for name in plain.state_dict())
    assert SegNextConfig.from_json(TINY.to_json()) == TINY


@pytest.mark.parametrize(
    "change",
    [{"text_tower": "elsewhere"}, {"text_tower": None}, {"text_tower": 5}, {"text_tower": "a/b/c"},
     {"text_tower": "a:\n"}, {"text_tower": "a:" + "x" * 2000}, {"text_dim": 0},
     {"text_dim": 10**9}, {"text_dim": 1000}, {"text_dim": 18}, {"text_dim": "16"},
     {"text_depth": -1}, {"text_depth": 101}, {"text_depth": 1.5}],
)  # fmt: skip
def test_a_config_of_text_that_cannot_be_built_is_refused(change):
    with pytest.raises(CheckpointError, match=r"\.$"):
        replace(WORDS, **change)


def test_a_pretrained_tower_gives_open_clips_own_vectors(clip_file):
    import open_clip

    name = f"tiny-clip:{clip_file}"
    assert tower_dim(name) == 16
    clip = open_clip.create_model("tiny-clip", str(clip_file)).eval()
    tokens = open_clip.get_tokenizer("tiny-clip")(["a photo of a dog.", "a photo of a red car."])
    with torch.inference_mode():
        expected = clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(pretrained_tower(name)(["dog", " red  car"]), expected)
    branch = TextBranch(replace(TINY, text_tower=name, text_dim=16, text_depth=1))
    torch.testing.assert_close(branch.vectors([None, "dog"])[1], expected[0])


def test_the_weights_of_a_pretrained_tower_are_not_saved_and_must_stay_the_same(clip_file, image):
    import open_clip

    config = replace(TINY, text_tower=f"tiny-clip:{clip_file}", text_dim=16, text_depth=1)
    model = SegNext(config).eval()
    model.text_branch.remember_tower()
    assert not any("transformer" in name for name in model.state_dict())
    checkpoint = clip_file.with_name("words.safetensors")
    save(model, checkpoint)
    embedding = model.encode(image)
    load(checkpoint).decode(embedding, Prompt(text="dog"))

    other = open_clip.create_model("tiny-clip", str(clip_file))
    torch.nn.init.normal_(other.text_projection)
    torch.save(other.state_dict(), clip_file)
    pretrained_tower.cache_clear()  # as in a new process
    with pytest.raises(CheckpointError, match=r"other weights.*\.$"):
        load(checkpoint).decode(embedding, Prompt(text="dog"))
    clip_file.unlink()
    pretrained_tower.cache_clear()
    clicks_still_work = load(checkpoint).decode(embedding, Prompt((Click(5, 5),)))
    assert clicks_still_work.mask().shape == (60, 90)
    with pytest.raises(CheckpointError, match=r"there is no file.*\.$"):
        load(checkpoint).decode(embedding, Prompt(text="dog"))


def test_weights_that_are_damaged_or_of_another_shape_are_refused(clip_file):
    whole = clip_file.read_bytes()
    truncated = clip_file.with_name("truncated.pt")
    truncated.write_bytes(whole[: len(whole) // 2])
    nonsense = clip_file.with_name("nonsense.safetensors")
    nonsense.write_bytes(b"no tensors in here")
    empty = clip_file.with_name("empty.pt")
    torch.save({}, empty)
    numbers = clip_file.with_name("numbers.pt")
    torch.save([1, 2], numbers)
    code = clip_file.with_name("code.pt")
    torch.save({"state_dict": Path}, code)  # a pickle that names something to import
    state = torch.load(clip_file, weights_only=True)
    state["text_projection"] = torch.zeros(16, 8)
    shape = clip_file.with_name("shape.pt")
    torch.save(state, shape)
    array = clip_file.with_name("array.npz")
    np.savez(array, a=np.zeros(3))
    for path in (truncated, nonsense, empty, numbers, code, shape, array):
        with pytest.raises(CheckpointError, match=r"cannot be read.*\.$"):
            pretrained_tower(f"tiny-clip:{path}")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ViT-B-32/laion2b_s34b_b79k", "HF_HUB_OFFLINE=1"),  # known, but there is no network
        ("ViT-B-32/no_such_tag", "no_such_tag"),
        ("NoSuchModel/tag", "ViT-B-32/laion2b_s34b_b79k"),
        ("hf-hub:somebody/model", "no text tower"),
        ("local-dir:/tmp", "no text tower"),
    ],
)
def test_the_error_for_a_missing_tower_says_what_to_do(name, reason, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=rf"{reason}.*\.$"):
        tower_dim(name)
        pretrained_tower(name)
