"""The field's figures, for masks and curves whose figures were computed by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from model.evaluation.curves import boundary_iou, click_curve, clicks_to_reach, summarize
from model.masks import iou
from model.network.prompts import Prompt


def _disk(radius, size=101):
    rows, cols = np.indices((size, size)) - size // 2
    return rows**2 + cols**2 <= radius**2


def test_iou_by_hand():
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert iou(a, b) == 1
    a[:2], b[1:3] = True, True
    assert iou(a, b) == pytest.approx(4 / 12)


def test_boundary_iou_shows_what_iou_does_not():
    a, b = _disk(40), _disk(38)
    assert boundary_iou(a, a) == 1
    assert boundary_iou(a, b) < iou(a, b) - 0.1


def test_clicks_to_reach_counts_from_one_up_to_the_number_of_clicks():
    curves = np.array([[0.9, 0.9, 0.9], [0.1, 0.86, 0.95], [0.1, 0.2, 0.3]])
    assert clicks_to_reach(curves, 0.85).tolist() == [1, 2, 3]


def test_summary_by_hand():
    curves = np.array([[0.9, 0.92, 0.92, 0.92, 1.0], [0.1, 0.2, 0.3, 0.4, 0.5]])
    table = summarize(curves)
    assert table["n"] == 2 and table["noc85"] == 3 and table["nof85"] == 1
    assert table["noc90"] == 3 and table["miou1"] == pytest.approx(0.5)
    assert table["miou3"] == pytest.approx(0.61) and table["miou5"] == pytest.approx(0.75)
    assert summarize(np.zeros((0, 5))) == {"n": 0}


class _Oracle:
    """Answers with a fixed sequence of masks and remembers the prompts that it got."""

    def __init__(self, answers):
        self.answers, self.prompts = answers, []

    def decode(self, embedding, prompt: Prompt):
        mask = self.answers[min(len(self.prompts), len(self.answers) - 1)]
        self.prompts.append(prompt)

        return SimpleNamespace(probability=mask.astype(np.float32), mask=lambda: mask)


def test_a_curve_feeds_each_answer_back_and_stops_when_nothing_is_wrong():
    target = _disk(30)
    model = _Oracle([_disk(20), target])
    found = click_curve(model, None, target, clicks=5)
    curve = found.iou
    assert curve[0] == pytest.approx(iou(_disk(20), target)) and curve[1:].tolist() == [1.0] * 4
    assert len(found.answers) == 2 and model.prompts[0].mask is None
    np.testing.assert_array_equal(model.prompts[1].mask > 0.5, _disk(20))
    assert [len(prompt.clicks) for prompt in model.prompts] == [1, 2]


def test_a_first_prompt_of_another_kind_counts_as_the_first_click():
    target = _disk(30)
    model = _Oracle([_disk(20), _disk(25), target])
    curve = click_curve(model, None, target, clicks=5, start="box").iou
    first, second, third = model.prompts
    assert first.boxes and not first.clicks
    assert second.boxes == first.boxes and len(second.clicks) == 1 and len(third.clicks) == 2
    assert curve[0] == pytest.approx(iou(_disk(20), target)) and curve[2] == 1


def test_a_mask_given_first_is_replaced_by_the_answers():
    target = _disk(30)
    model = _Oracle([_disk(25), target])
    click_curve(model, None, target, clicks=5, start="mask")
    assert iou(model.prompts[0].mask > 0.5, target) > 0.7 and not model.prompts[0].clicks
    np.testing.assert_array_equal(model.prompts[1].mask > 0.5, _disk(25))
