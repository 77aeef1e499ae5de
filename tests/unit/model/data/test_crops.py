"""Training crops: picture and mask move together, and a shrunk picture is averaged."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from model.data.crops import MIN_AREA, _warp, make_crop
from model.data.datasets import MaskItem


@pytest.fixture
def ball(tmp_path) -> MaskItem:
    """A white ball on black, 400x300."""
    mask = np.zeros((300, 400), np.uint8)
    cv2.circle(mask, (220, 140), 60, 1, -1)
    Image.fromarray(mask * 255).convert("RGB").save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    return MaskItem("ball", tmp_path / "a.png", tmp_path / "m.png")


def test_the_target_stays_on_the_object_however_the_crop_is_drawn(ball):
    for seed in range(40):
        crop = make_crop(ball, 96, 2, np.random.default_rng(seed))
        assert crop is not None and crop.targets.shape == (2, 96, 96)
        bright = crop.image.mean(2)
        inside = cv2.erode(crop.targets[0].astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        outside = cv2.dilate(crop.targets[0].astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
        assert bright[inside].min() > bright[outside].max()


@pytest.mark.parametrize("shrink", [0.25, 0.4, 1.0, 1.7])
def test_a_warp_puts_pixels_where_its_map_says_and_averages_what_it_shrinks(shrink):
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[80:120, 60:140] = 0
    warped = _warp(stripes, np.array([[shrink, 0, 5.0], [0, shrink, 3.0]]), 64)
    if shrink < 0.5:  # single pixels would be black or white
        away = warped[3 + int(150 * shrink), 8 : 5 + int(180 * shrink), 0]
        assert away.min() > 90 and away.max() < 165
        assert warped[round(3 + 100 * shrink), round(5 + 100 * shrink)].max() == 0
    else:
        direct = cv2.warpAffine(
            stripes, np.array([[shrink, 0, 5.0], [0, shrink, 3.0]]), (64, 64),
            flags=cv2.INTER_LINEAR, borderValue=(128, 128, 128),
        )  # fmt: skip
        np.testing.assert_array_equal(warped, direct)


def test_a_picture_without_a_large_enough_target_gives_no_crop(ball, tmp_path):
    small = np.zeros((300, 400), np.uint8)
    small[:2, :2] = 1
    Image.fromarray(small).save(tmp_path / "m.png")
    assert MIN_AREA > 4 * 4
    drawn = [make_crop(ball, 32, 1, np.random.default_rng(seed)) for seed in range(5)]
    assert drawn == [None] * 5
