from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from model.inference.proposals import Proposal
from model.network.prediction import Prediction
from model.network.prompts import Click
from pipeline.labelstudio.config import read_label_config
from pipeline.labelstudio.regions import label_of, mask_of
from pipeline.labelstudio.template import default_label_config
from pipeline.precompute import propose as proposing
from pipeline.precompute.propose import Target, proposed_regions

HEIGHT, WIDTH = 1500, 2000
TARGET = Target(7, read_label_config(default_label_config()), "Other", 0.001)


def proposal(stability: float, top: int, left: int, bottom: int, right: int) -> Proposal:
    """One of a box on 75 x 100 cells."""
    logits = torch.full((75, 100), -6.0)
    logits[top:bottom, left:right] = 6
    prediction = Prediction(logits, (300, 400), (HEIGHT, WIDTH), 0.49)
    middle = Click((top + bottom) * 10, (left + right) * 10)
    return Proposal(prediction, middle, stability, float((logits > 0).float().mean()))


FOUND = [proposal(0.5, 5, 5, 70, 40), proposal(0.9, 10, 50, 20, 60), proposal(0.7, 30, 50, 60, 95)]


def test_regions_are_brushes_at_the_images_size_the_largest_first() -> None:
    regions = proposed_regions(FOUND, TARGET, task=3)
    masks = [mask_of(region) for region in regions]
    assert [mask.shape for mask in masks if mask is not None] == [(HEIGHT, WIDTH)] * 3
    areas = [np.count_nonzero(mask) for mask in masks]
    assert areas == sorted(areas, reverse=True)
    for region in regions:
        assert label_of(region) == "Other"
        assert (region["from_name"], region["to_name"]) == ("mask", "image")
        assert (region["original_width"], region["original_height"]) == (WIDTH, HEIGHT)
        assert 0 < region["score"] <= 1


def test_ids_stay_from_one_call_to_the_next_and_differ_between_tasks() -> None:
    def ids(task: int) -> set[str]:
        return {region["id"] for region in proposed_regions(FOUND, TARGET, task)}

    assert ids(3) == ids(3)
    assert len(ids(3)) == len(FOUND)
    assert not ids(3) & ids(4)


def test_where_there_is_no_room_the_steadiest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, middling, steadiest = (region["id"] for region in proposed_regions(FOUND, TARGET, 3))
    room = len(json.dumps(proposed_regions(FOUND[1:], TARGET, 3)))
    monkeypatch.setattr(proposing, "MOST_BYTES", room)
    kept = proposed_regions(FOUND, TARGET, 3)
    assert [region["id"] for region in kept] == [middling, steadiest]
