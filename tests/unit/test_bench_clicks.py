"""The bench of several annotators: it measures a real backend, and sees a mask of another image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import annotators, baselines, clicks, drafts, network
from model.masks import iou
from pipeline.labelstudio.regions import brush_region
from pipeline.masks.coded import CodedMask

WIDTH, HEIGHT = 160, 120


def answer(mask: np.ndarray) -> bytes:
    region = brush_region(
        region_id="a", mask=CodedMask.of_mask(mask), label="Object",
        from_name="mask", to_name="image",
    )  # fmt: skip
    return json.dumps({"results": [{"result": [region]}]}).encode()


def reply(task: int, body: bytes) -> annotators.Reply:
    return annotators.Reply(task, 0, 0.0, 0.1, body)


def test_no_two_objects_are_alike_and_each_is_visited_once() -> None:
    world = annotators.make_world(6, WIDTH, HEIGHT)
    tasks = range(1, 6 * annotators.OBJECTS + 1)
    assert len({world.visit(task) for task in tasks}) == len(tasks)
    masks = [world.thing(task)[1].mask(WIDTH, HEIGHT) for task in tasks]
    for k, mask in enumerate(masks):
        assert max(iou(mask, other) for other in masks[:k] or [~mask]) < annotators.RIGHT
    for task, mask in zip(tasks, masks, strict=True):
        (x, y, first), (_, _, second), (x3, y3, third) = world.thing(task)[1].clicks
        assert first and third and not second
        assert mask[int(y), int(x)] and mask[int(y3), int(x3)]


def test_an_answer_of_another_image_is_seen() -> None:
    world = annotators.make_world(3, WIDTH, HEIGHT)
    masks = {task: world.thing(task)[1].mask(WIDTH, HEIGHT) for task in (1, 2, 3)}
    alone = {world.visit(task): [annotators.packed(mask)] for task, mask in masks.items()}
    right = [reply(task, answer(mask)) for task, mask in masks.items()]
    found = annotators.check(world, right, alone)
    assert not found.wrong and found.least_iou == 1 and found.object_iou == 1

    swapped = [right[0], reply(2, answer(masks[3])), reply(3, b'{"results": [{"result": []}]}')]
    found = annotators.check(world, swapped, alone)
    assert found.wrong == tuple(swapped[1:]) and found.least_iou == 0


def test_the_command_measures_a_running_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    given = ["--images", "6", "--width", str(WIDTH), "--height", str(HEIGHT), "--seconds", "1"]
    given += ["--annotators", "1", "2", "--pause", "0.3", "--threads", "1", "--no-large"]
    given += ["--json", str(report)]
    monkeypatch.setattr(sys, "argv", ["bench.clicks", *given])
    monkeypatch.setattr(drafts, "DRAFTS", ((1, 3), (2, 2)))
    monkeypatch.setattr(drafts, "VISITS", 1)
    threads = torch.get_num_threads()
    try:
        clicks.main()
    finally:
        torch.set_num_threads(threads)
    told = json.loads(report.read_text())
    rows = [(row["annotators"], row["pause_s"]) for row in told["rows"]]
    assert rows == [(1, 0), (2, 0), (1, 0.3), (2, 0.3)]
    assert told["rows"][2]["clicks"] < 7  # a second has no room for more with pauses
    for row in told["rows"]:
        assert row["wrong_image"] == 0 and row["wrong"] == []
        assert row["clicks_per_s"] > 0 and row["clicks"] > 1
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["object_iou"] > 0.5 and row["backend_mean_ms"] > 0
        assert 0 < row["rss_before_mb"] <= row["rss_peak_mb"]
        assert len(row["rss_each_minute_mb"]) <= 1
    assert told["every_click"]["p50_ms"] > 0 and told["others"] is None
    assert [row["masks"] for row in told["drafts"]] == [
        "none", "3 clicked", "3 proposed", "none", "2 clicked", "2 proposed",
    ]  # fmt: skip
    for row in told["drafts"]:
        assert 0 < row["backend_first_ms"] < row["client_first_ms"] and row["ratio_first"] > 0
    shown = capsys.readouterr().out
    assert "encoder at each" in shown and "in the draft" in shown


def test_other_networks_are_measured_with_the_encoder_at_each_click(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quick = network.network("released", quick=True)
    monkeypatch.setattr(network, "network", lambda _: quick)
    monkeypatch.setattr(baselines, "EXAMPLE", baselines.SMALLEST)
    monkeypatch.setattr(baselines, "SIDE", 128)
    released, example, _ = baselines.measure()
    assert released["each_click_ms"] > released["encoded_ms"] > 0
    assert example["each_click_ms"] > 0
