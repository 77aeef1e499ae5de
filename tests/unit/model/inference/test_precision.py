"""A lower precision is used where it is faster, for the blocks only, and hardly changes masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import data
from torch import nn

from model.checkpoints.files import default_checkpoint, load
from model.errors import CheckpointError
from model.inference import precision
from model.network.block import Block
from model.network.config import SMALL, SegNextConfig
from model.network.prompts import Box, Click, Prompt
from model.network.segnext import SegNext

VIT = SegNextConfig(
    size=256, dim=192, depth=6, heads=6, fusion_heads=6, neck=(32, 64, 96, 128), head=64
)
PHOTO = np.ascontiguousarray(data.astronaut()[:400])
PROMPTS = [
    Prompt((Click(100, 220),)),
    Prompt((Click(300, 100),)),
    Prompt((Click(60, 400), Click(200, 230, positive=False))),
    Prompt(boxes=(Box(0, 130, 180, 320),)),
]


def _iou(first, second):
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 0.995), (torch.float16, 0.999)])
def test_masks_of_trained_weights_hardly_change(dtype, least):
    exact, lowered = load(default_checkpoint()), load(default_checkpoint())
    precision.lower(lowered, dtype)
    pairs = zip(
        exact.decode_many(exact.encode(PHOTO), PROMPTS),
        lowered.decode_many(lowered.encode(PHOTO), PROMPTS),
        strict=True,
    )
    agreement = [_iou(first.mask(), second.mask()) for first, second in pairs]
    assert np.mean(agreement) > least and min(agreement) > least - 0.01


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 0.994), (torch.float16, 0.998)])
def test_masks_of_random_weights_in_the_released_shape_hardly_change(dtype, least):
    # Cut at its median, an answer has half of all pixels in the mask and nearly all of them at its
    # edge: no case is harder.
    torch.manual_seed(0)
    exact, lowered = SegNext(VIT).eval(), SegNext(VIT).eval()
    lowered.load_state_dict(exact.state_dict())
    precision.lower(lowered, dtype)
    agreement = []
    for prompt in PROMPTS:
        first = exact.decode(exact.encode(PHOTO), prompt).logits
        second = lowered.decode(lowered.encode(PHOTO), prompt).logits
        assert second.dtype == torch.float32 and not torch.equal(first, second)
        agreement.append(_iou(first > first.median(), second > first.median()))
    assert np.mean(agreement) > least


def test_only_the_blocks_matrices_are_lowered_and_the_encoder_stays_the_same():
    model = SegNext(VIT)
    fingerprint = SegNext.encoder_fingerprint.func(model)
    precision.lower(model, torch.bfloat16)
    assert model.encoder_fingerprint == fingerprint
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    assert len(blocks) == 8
    matrices = {id(p) for block in blocks for part in (block.attn, block.mlp)
                for p in part.parameters()}  # fmt: skip
    for parameter in model.parameters():
        expected = torch.bfloat16 if id(parameter) in matrices else torch.float32
        assert parameter.dtype == expected


def test_auto_takes_bfloat16_only_where_it_is_faster(monkeypatch):
    small, wide = SegNext(replace(SMALL, size=64, depth=0)), nn.Module()
    wide.config, wide.device = replace(VIT, dim=768), torch.device("cpu")
    for pays in (True, False):
        monkeypatch.setattr(precision, "bf16_pays", lambda answer=pays: answer)
        assert precision.choose("auto", small) == torch.float32
        assert (precision.choose("auto", wide) == torch.bfloat16) is pays
    assert precision.choose("bf16", small) == torch.bfloat16
    assert precision.choose("fp32", wide) == torch.float32
    wide.device = torch.device("cuda")
    assert precision.choose("auto", wide) == torch.float16


def test_a_process_measures_the_cpu_only_once():
    assert precision.bf16_pays() is precision.bf16_pays()
    assert precision.bf16_pays.cache_info().misses <= 1


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_without_a_compiler_the_error_gives_the_reason(monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/nowhere/c++"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    with pytest.raises(CheckpointError, match=r"model\.compile off\.$"):
        precision.compile_and_warm(SegNext(replace(VIT, size=64, dim=24, depth=1)).eval())
