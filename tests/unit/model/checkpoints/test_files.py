"""Our checkpoints are written and read back; damaged and hostile ones are refused in a sentence."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch

from model.checkpoints.files import FORMAT, default_checkpoint, load, save, to_bytes
from model.errors import CheckpointError
from model.network.config import SMALL, SegNextConfig
from model.network.prompts import Click, Prompt
from model.network.segnext import SegNext

TINY = replace(SMALL, size=64, dim=32, depth=1, heads=2, fusion_heads=2, neck=(8, 8, 8, 8), head=8)


@pytest.fixture(scope="module")
def model() -> SegNext:
    torch.manual_seed(0)
    return SegNext(TINY).eval()


def answer(model: SegNext) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    return model.decode(model.encode(image), Prompt((Click(9, 9),))).full()


def test_a_network_survives_being_saved(model, tmp_path):
    save(model, tmp_path / "a.safetensors")
    first = load(tmp_path / "a.safetensors")
    assert first.config == TINY
    assert not first.training
    save(first, tmp_path / "b.safetensors")
    second = load(tmp_path / "b.safetensors")
    assert first.encoder_fingerprint == second.encoder_fingerprint
    np.testing.assert_allclose(answer(model), answer(first), atol=5e-3)  # half precision
    np.testing.assert_array_equal(answer(first), answer(second))


def test_an_exact_save_halves_only_what_loses_nothing(model, tmp_path):
    data = to_bytes(model, exact=True)
    (tmp_path / "a.safetensors").write_bytes(data)
    exact = load(tmp_path / "a.safetensors")
    assert exact.encoder_fingerprint == model.encoder_fingerprint
    np.testing.assert_array_equal(answer(model), answer(exact))
    assert to_bytes(load(tmp_path / "a.safetensors"), exact=True) == data
    half = to_bytes(model)
    assert len(half) < 0.6 * len(data)
    (tmp_path / "b.safetensors").write_bytes(half)
    assert to_bytes(load(tmp_path / "b.safetensors"), exact=True) == half


def test_the_weights_that_ship_load_and_are_small_enough():
    path = default_checkpoint()
    assert path.stat().st_size <= 20_000_000
    assert load(path).config.encoder == "mobilenetv2"


@pytest.mark.parametrize("first", [*b"\x80\x50<\n"])
def test_a_header_of_any_length_is_read(model, tmp_path, first):
    """A file begins with that length, so it may begin like a pickle, an archive or a web page."""
    data = to_bytes(model)
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end]
    header += b" " * ((first - len(header)) % 256)
    assert len(header) % 256 == first
    (tmp_path / "a.safetensors").write_bytes(with_header(header) + data[end:])
    assert load(tmp_path / "a.safetensors").config == TINY


def config_of(**changes) -> str:
    return json.dumps({**json.loads(TINY.to_json()), **changes})


# Configs that must never be accepted; each is refused before anything is built.
CONFIGS = {
    "empty": "",
    "not a mapping": "[1, 2]",
    "a number": "7",
    "nested too deeply": "[" * 100_000,
    "an unknown field": config_of(colour="red"),
    "not finite": config_of().replace("0.5", "NaN", 1),
    "without end": config_of(mlp_ratio=1).replace('"mlp_ratio": 1', '"mlp_ratio": Infinity'),
    **{
        f"{name}={value!r}": config_of(**{name: value})
        for name, value in [
            ("dim", 10**9), ("dim", 32.0), ("dim", "32"), ("dim", True), ("dim", None),
            ("dim", -32), ("dim", 0), ("dim", [32]), ("dim", 33),
            ("depth", 10**6), ("depth", -1), ("depth", "1"), ("fusion_depth", 10**6),
            ("heads", 0), ("fusion_heads", 3), ("size", 65), ("size", 10**9), ("size", 0),
            ("neck", [8, 8, 8]), ("neck", 8), ("neck", [8, 8, 8, 10**9]), ("head", 10**9),
            ("detail", -1), ("detail", 10**9), ("radius", 0), ("window_freq", "3"),
            ("pretrain_grid", 0), ("mlp_ratio", 10**9), ("mlp_ratio", 0), ("dropout", 1),
            ("threshold", 0), ("threshold", 1), ("mean", [0, 0]), ("std", [1, 1, 0]),
            ("std", ["1", 1, 1]), ("mean", [1e300, 0, 0]), ("encoder", "resnet"),
            ("fusion", "cross_attention"), ("encoder", ["vit"]), ("text_tower", 3),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_an_impossible_config_is_refused(name):
    with pytest.raises(CheckpointError, match=r"^The network's config .*; get .*\.$"):
        SegNextConfig.from_json(CONFIGS[name])


def with_header(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


def hostile(model: SegNext) -> dict[str, tuple[bytes, str]]:
    """Damaged and hostile files by name, and words of the sentence that refuses each."""
    good = to_bytes(model)
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items()}

    def changed(config: str = TINY.to_json(), **tensors: torch.Tensor | None) -> bytes:
        kept = {k: v for k, v in {**state, **tensors}.items() if v is not None}
        return safetensors.torch.save(kept, metadata={"format": FORMAT, "config": config})

    name = "head.seg_conv.weight"
    huge = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    return {
        "empty": (b"", "is empty"),
        "one byte": (good[:1], "damaged"),
        "half a header": (good[:100], "damaged"),
        "half the weights": (good[: len(good) // 2], "damaged"),
        "the last byte missing": (good[:-1], "damaged"),
        "a byte too many": (good + b"x", "damaged"),
        "text": (b"not weights", "neither"),
        "a page": (b"\n<!DOCTYPE html><html>Quota exceeded", "web page"),
        "a pickle": (b"\x80\x04\x95" + bytes(100), "bare pickle"),
        "an absurd header": (with_header(b"{}", 2**63), "damaged"),
        "a header of a gigabyte": (with_header(b"{}", 2**30), "damaged"),
        "a header that is no JSON": (with_header(b"{" * 5000), "damaged"),
        "a tensor beyond the file": (with_header(json.dumps(huge).encode()), "damaged"),
        "another program's": (safetensors.torch.save({"a": torch.zeros(1)}), "not a maskloop"),
        "no config": (
            safetensors.torch.save({"a": torch.zeros(1)}, metadata={"format": FORMAT}),
            "config",
        ),
        "a config of another shape": (changed(config_of(dim=64)), "in the shape"),
        "a config that asks for terabytes": (
            changed(config_of(dim=4096, depth=100, fusion_depth=100, neck=[4096] * 4)),
            "(lacks|in the shape)",
        ),
        "a tensor missing": (changed(**{name: None}), f"lacks {name}"),
        "a tensor too many": (changed(**{"x" * 500: torch.zeros(1)}), "too many"),
        "a wrong shape": (changed(**{name: torch.zeros(8, 1, 1, 1)}), "in the shape"),
        "whole numbers": (changed(**{name: torch.ones(1, 8, 1, 1, dtype=torch.int32)}), "int32"),
        "not a number": (changed(**{name: torch.full((1, 8, 1, 1), torch.nan)}), "not finite"),
        "without end": (changed(**{name: torch.full((1, 8, 1, 1), -torch.inf)}), "not finite"),
    }


def test_damaged_and_hostile_files_are_refused(model, tmp_path, subtests):
    for name, (data, says) in hostile(model).items():
        with subtests.test(name):
            (tmp_path / "a.safetensors").write_bytes(data)
            started = time.monotonic()
            with pytest.raises(CheckpointError, match=rf"{says}.*\.$") as caught:
                load(tmp_path / "a.safetensors")
            assert time.monotonic() - started < 20  # most take milliseconds
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_path_that_is_not_a_readable_file_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("folder", "absent.safetensors"):
        with pytest.raises(CheckpointError, match="no checkpoint"):
            load(tmp_path / name)
    # A file that exists and that nobody can read, not even root.
    unreadable = tmp_path / "unreadable.pth"
    unreadable.symlink_to("/proc/self/mem")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(unreadable)
