"""Masks as they are sent: cleaned, and never too large."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from backend.click.reply import ENVELOPE_BYTES, json_bytes, shape_reply
from backend.request.prompts import Mark
from model.masks import iou
from pipeline.masks.rle import decode, encode


@given(st.binary(max_size=300))
def test_the_size_of_the_json_is_known_without_making_it(data: bytes) -> None:
    expected = len(json.dumps(list(data), separators=(",", ":")))
    assert abs(json_bytes(data) - expected) <= 1  # An empty list has no comma to leave out.


def ragged(share: float) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    mask = np.zeros((300, 400), bool)
    mask[60:240, 80:320] = True
    return mask ^ (np.random.default_rng(0).random(mask.shape) < share)


def test_a_small_mask_is_sent_as_it_is() -> None:
    mask = ragged(0)
    sent = shape_reply(mask, [], 100_000)
    assert (sent.coded.rle, sent.smoothed, sent.empty) == (encode(mask), False, False)


def test_a_ragged_mask_is_smoothed_until_it_fits() -> None:
    budget = 8_000
    sent = shape_reply(ragged(0.3), [], budget)
    assert sent.smoothed
    assert json_bytes(sent.coded.rle) <= budget - ENVELOPE_BYTES
    assert iou(decode(sent.coded.rle, 300, 400), ragged(0)) > 0.9


def test_a_mask_that_cannot_fit_is_left_out() -> None:
    noise = np.random.default_rng(0).random((2000, 2000)) < 0.5
    sent = shape_reply(noise, [], ENVELOPE_BYTES + 100)
    assert sent.empty


def test_what_was_clicked_on_survives() -> None:
    mask = ragged(0)
    mask[10, 10] = True
    there = Mark("a", "click", True, x=10.5, y=10.5)
    assert decode(shape_reply(mask, [there], 100_000).coded.rle, 300, 400)[10, 10]
    assert not decode(shape_reply(mask, [], 100_000).coded.rle, 300, 400)[10, 10]
