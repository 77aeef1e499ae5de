"""The network bench: the plain network is ours, and the command says what it measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import network, plain
from model.network.config import SMALL
from model.network.prompts import Box, Click, Prompt
from model.network.segnext import SegNext

PHOTO = network.picture("chelsea", (200, 150))
PROMPT = Prompt((Click(40, 100), Click(100, 20, positive=False)), (Box(20, 60, 120, 150),))
TINY = replace(SMALL, size=128, dim=32, depth=1, heads=2, fusion_heads=2, neck=(8, 8, 8, 8))


@pytest.mark.parametrize(
    "config",
    [
        network.QUICK,
        replace(network.QUICK, size=512, dim=48, depth=3, window_freq=2),  # has windows
        replace(network.QUICK, dim=48, fusion="naive"),
        TINY,
    ],
)
def test_the_plain_network_gives_the_same_numbers(config) -> None:
    torch.manual_seed(0)
    model = SegNext(config).eval()
    embedding = model.encode(PHOTO)
    if config.encoder == "vit":
        features = plain.encode(model, PHOTO).features
        torch.testing.assert_close(features, embedding.features, atol=1e-4, rtol=1e-4)
    mask = None
    for _ in range(2):
        prompt = replace(PROMPT, mask=mask)
        ours, plainly = model.decode(embedding, prompt), plain.decode(model, embedding, prompt)
        np.testing.assert_allclose(ours.full(), plainly, atol=1e-5)
        mask = ours.probability


def test_matrix_products_are_counted_with_the_attention_s() -> None:
    model = SegNext(TINY).eval()
    tokens, dim = 64, TINY.dim
    flops, in_blocks = network.count(lambda: model.fusion_blocks(torch.zeros(1, dim, 8, 8)))
    hidden = int(dim * TINY.fusion_mlp_ratio)
    linear = 2 * tokens * dim * (4 * dim + 2 * hidden)
    attention = 4 * tokens * tokens * dim
    assert flops == pytest.approx(TINY.fusion_depth * (linear + attention) / 1e9)
    embedding = model.encode(PHOTO)
    flops, in_blocks = network.count(lambda: model.decode(embedding, PROMPT))
    assert 0 < in_blocks < flops


def test_the_command_measures_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    given = ["--quick", "--threads", "1", "--repeats", "1", "--prompts", "2"]
    monkeypatch.setattr(sys, "argv", ["bench.network", *given, "--json", str(report)])
    threads = torch.get_num_threads()
    try:
        network.main()
    finally:
        torch.set_num_threads(threads)
    written = json.loads(report.read_text())
    against = written["against_plain"]
    assert against["iou_fp32"] > 0.999 and against["iou_auto"] > 0.99
    assert against["probabilities_apart"] < 1e-5 and against["features_apart"] < 1e-3
    assert all(each["mean_iou"] > 0.99 for each in written["agreement"])
    assert [(each["network"], each["blocks"]) for each in written["times"]] == [
        ("small", "fp32"), ("small", "bf16"), ("released", "fp32"), ("released", "bf16"),
    ]  # fmt: skip
    for each in written["times"]:
        assert all(each[figure] > 0 for figure in each if figure not in ("network", "blocks"))
    for each in written["memory_mb"]:
        assert each["of_that_the_mask"] < each["click"] < 300
        assert each["process"] > each["weights"] + each["encode"]
    shown = capsys.readouterr().out
    assert "share of peak" in shown and "Memory beyond the weights" in shown
