"""The network's parts give the numbers of their plain definitions, for images of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model.errors import CheckpointError, ImageError, PromptError
from model.network import decoder, segnext
from model.network.config import SMALL, SegNextConfig
from model.network.decoder import Head, PromptEncoder
from model.network.embedding import Embedding
from model.network.prompts import Box, Click, Prompt
from model.network.segnext import SegNext
from model.network.vit import ViTEncoder

TINY = replace(SMALL, size=64, dim=32, depth=1, heads=2, fusion_heads=2, neck=(8, 8, 8, 8), head=8)
VIT = SegNextConfig(
    size=64, dim=24, depth=3, heads=3, pretrain_grid=2, fusion_heads=3, neck=(8, 8, 8, 8), head=8
)


@pytest.fixture(scope="module", params=[TINY, VIT], ids=["small", "vit"])
def model(request):
    torch.manual_seed(0)
    return SegNext(request.param).eval()


def _image(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (100, 100), (48, 31), (700, 20)])
def test_an_image_of_any_size_gets_a_mask_of_its_size(model, size):
    embedding = model.encode(_image(*size))
    prediction = model.decode(embedding, Prompt((Click(0, 0),)))
    assert embedding.image_size == size
    assert prediction.mask().shape == prediction.full().shape == size
    assert prediction.full().min() >= 0 and prediction.full().max() <= 1
    assert 0 <= prediction.score <= 1
    np.testing.assert_array_equal(
        prediction.mask(), prediction.full() > np.float32(model.config.threshold)
    )


def test_prompts_do_not_influence_each_other(model):
    embedding = model.encode(_image(40, 60))
    prompts = [
        Prompt((Click(5, 5),)),
        Prompt((Click(30, 50), Click(3, 3, positive=False))),
        Prompt(boxes=(Box(2, 2, 30, 30),), mask=np.full((8, 8), 0.5, np.float32)),
    ]
    together = model.decode_many(embedding, prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        alone = model.decode(embedding, prompt)
        np.testing.assert_allclose(alone.full(), answer.full(), atol=1e-5)
    assert not np.allclose(together[0].full(), together[1].full(), atol=1e-6)
    with pytest.raises(PromptError):
        model.decode(embedding, Prompt())


def test_many_pairs_are_answered_as_each_alone(model, monkeypatch):
    embeddings = [model.encode(_image(*size)) for size in ((40, 60), (60, 40), (64, 64), (40, 60))]
    random = np.random.default_rng(0)
    pairs = []
    for number in random.integers(0, 4, 11).tolist():
        click = Click(*random.uniform(0, 40, 2), bool(random.random() < 0.7))
        mask = random.random((8, 8), np.float32) if random.random() < 0.5 else None
        pairs.append((embeddings[number], Prompt((click,), mask=mask)))
    monkeypatch.setattr(segnext, "CHUNK", 3 * 64 * 64)
    together = model.decode_batch(*zip(*pairs, strict=True))
    for (embedding, prompt), answer in zip(pairs, together, strict=True):
        alone = model.decode(embedding, prompt)
        assert answer.image_size == embedding.image_size
        torch.testing.assert_close(answer.logits, alone.logits, atol=1e-5, rtol=1e-5)
    assert model.decode_batch([], []) == model.decode_many(embeddings[0], []) == []


def test_the_number_of_prompts_decoded_at_once_is_limited(model, monkeypatch):
    embedding = model.encode(_image(64, 64))
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append([len(t) for t in inputs[::2]]))
    monkeypatch.setattr(segnext, "CHUNK", 4 * 64 * 64)
    try:
        assert len(model.decode_many(embedding, [Prompt((Click(9, 9),))] * 10)) == 10
    finally:
        model._forward_pre_hooks.clear()
    assert seen == [[1, 4], [1, 4], [1, 2]]  # the image once, however many prompts


def test_patches_without_a_mark_give_the_convolution_s_bias():
    torch.manual_seed(0)
    encoder = PromptEncoder(24)
    maps = torch.zeros(3, 3, 70, 96)  # patches leave six rows over
    maps[0, 1, 5:20, 30] = 1
    maps[1, 0] = torch.rand(70, 96)
    maps[1, 2, 63, 95] = 0.25
    with torch.no_grad():
        plain = encoder(maps)
    with torch.inference_mode():
        sparse = encoder(maps)
    torch.testing.assert_close(sparse, plain)
    assert torch.equal(sparse[2, :, 0, 0], encoder.proj.bias)
    assert encoder(maps).requires_grad  # training has the convolution


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3), np.float32),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_an_array_that_is_not_an_rgb_image_is_refused(model, image):
    with pytest.raises(ImageError, match=r"\.$"):
        model.encode(image)


def test_the_head_gives_the_numbers_of_a_plain_head():
    torch.manual_seed(0)
    head = Head((8, 8, 8, 8), 16, 0.1).eval()
    maps = [torch.randn(2, 8, 32 // 2**i, 32 // 2**i) for i in range(4)]
    grown = [
        F.interpolate(conv(m), (32, 32), mode="bilinear", align_corners=False)
        for conv, m in zip(head.convs, maps, strict=True)
    ]
    plain = head.seg_conv(head.fusion_conv(torch.cat(grown, 1)))
    torch.testing.assert_close(head(maps), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sides", [(32, 16, 8, 4), (60, 30, 15, 7)])
def test_the_head_in_strips_gives_the_same_numbers(sides, monkeypatch):
    torch.manual_seed(0)
    head = Head((8, 8, 8, 8), 16, 0.1).eval()
    maps = [torch.randn(2, 8, side, side) for side in sides]
    with torch.no_grad():
        whole = head(maps)
    for pixels in (1, 5 * sides[0], 1000 * sides[0]):
        monkeypatch.setattr(decoder, "STRIP", pixels)
        with torch.inference_mode():
            torch.testing.assert_close(head(maps), whole, atol=1e-6, rtol=1e-5)
    enlarged = F.interpolate(maps[3], (8 * sides[3],) * 2, mode="bilinear")
    for top, bottom in ((0, 1), (3, 9), (7, 8), (8 * sides[3] - 5, 8 * sides[3])):
        part = decoder._enlarged(maps[3], (8 * sides[3],) * 2, top, bottom)
        assert torch.equal(part, enlarged[:, :, top:bottom])


def test_windowed_blocks_see_only_their_window_and_the_last_sees_all():
    torch.manual_seed(0)
    encoder = ViTEncoder(replace(VIT, window_freq=9)).eval()  # 4x4 tokens in 2x2 windows
    assert encoder.windows == 2 and encoder.is_global == [False, False, True]
    tokens = torch.randn(1, 4, 4, 24)
    changed = tokens.clone()
    changed[0, 0, 0] = torch.randn(24) * 3  # a constant shift would vanish in the layer norm
    with torch.no_grad():
        moved = (
            encoder._windowed(encoder.blocks[0], changed)
            - encoder._windowed(encoder.blocks[0], tokens)
        ).abs().amax(3)[0] > 1e-6
    assert moved[:2, :2].all() and moved.sum() == 4


def test_an_embedding_is_read_back_from_its_bytes(model):
    embedding = model.encode(_image(40, 60))
    back = Embedding.from_bytes(embedding.to_bytes())
    assert back.image_size == (40, 60) and len(back.skips) == len(embedding.skips)
    prompt = Prompt((Click(20, 30),))
    np.testing.assert_allclose(
        model.decode(back, prompt).full(), model.decode(embedding, prompt).full(), atol=2e-2
    )
    assert np.linalg.norm(back.vector()) == pytest.approx(1, abs=1e-5)
    assert back.n_bytes < embedding.n_bytes


def test_a_damaged_embedding_is_refused(model):
    data = model.encode(_image(40, 60)).to_bytes()
    tiny = Embedding(torch.zeros(3, 2, 2), (torch.zeros(24, 5, 5),), (5, 5)).to_bytes()
    flat = Embedding(torch.zeros(3), (), (5, 5)).to_bytes()
    negative = Embedding(torch.zeros(3, 2, 2), (), (-5, 5)).to_bytes()
    for bad in (b"", b"x" * 100, data[: len(data) // 2], tiny, flat, negative):
        with pytest.raises(CheckpointError, match=r"\.$"):
            Embedding.from_bytes(bad)


def test_fingerprint_follows_the_encoder_and_nothing_else():
    torch.manual_seed(0)
    model = SegNext(TINY)
    other = SegNext(TINY)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.head.seg_conv.bias.add_(1)
    assert other.encoder_fingerprint == model.encoder_fingerprint
    third = SegNext(TINY)
    third.load_state_dict(model.state_dict())
    with torch.no_grad():
        third.backbone.project.bias.add_(1)
    assert third.encoder_fingerprint != model.encoder_fingerprint
    assert len(model.encoder_fingerprint) == 16
    assert SegNext(replace(TINY, size=96)).preprocess_id != model.preprocess_id


@pytest.mark.parametrize(
    "change", [{"size": 70}, {"dim": 33}, {"heads": 0}, {"neck": (1, 2, 3)}, {"fusion": "x"},
               {"depth": -1}, {"dim": 10**9}, {"encoder": "resnet"},
               {"dim": 30, "heads": 2, "fusion_heads": 2}, {"mlp_ratio": 1e-3}],
)  # fmt: skip
def test_a_config_that_cannot_be_built_is_refused(change):
    with pytest.raises(CheckpointError, match=r"\.$"):
        replace(TINY, **change)
