"""Regions of every mask kind to masks, prompts to None, damage to an error."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from model.errors import ImageError, MaskloopError
from pipeline.errors import RleError
from pipeline.labelstudio.regions import brush_region, label_of, mask_of
from pipeline.masks.coded import CodedMask

HEIGHT, WIDTH = 40, 60


def square() -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:30, 15:45] = True
    return mask


def region(kind: str, **value: Any) -> dict[str, Any]:
    return {
        "id": "r",
        "type": kind,
        "original_height": HEIGHT,
        "original_width": WIDTH,
        "value": {**value, kind: ["Cat"]},
    }


CORNERS = [[25, 25], [75, 25], [75, 75], [25, 75]]
VERTICES = [{"id": str(k), "x": x, "y": y} for k, (x, y) in enumerate(CORNERS)]


def test_a_brush_region_comes_back() -> None:
    made = brush_region(
        region_id="abc",
        mask=CodedMask.of_mask(square()),
        label="Cat",
        from_name="mask",
        to_name="image",
        score=0.87654321,
    )
    mask = mask_of(made)
    assert mask is not None
    assert np.array_equal(mask, square())
    assert (label_of(made), made["id"], made["score"]) == ("Cat", "abc", 0.8765)


@pytest.mark.parametrize(
    "drawn",
    [
        region("polygonlabels", points=CORNERS, closed=True),
        region("vectorlabels", vertices=VERTICES, closed=True),
    ],
    ids=["polygon", "vector"],
)
def test_outlines_are_filled(drawn: dict[str, Any]) -> None:
    mask = mask_of(drawn)
    assert mask is not None
    assert np.count_nonzero(mask ^ square()) <= 2 * (20 + 30) + 4  # at most the rim
    assert mask[20, 30]


def test_a_curved_edge_bulges() -> None:
    bent = [dict(vertex) for vertex in VERTICES]
    bent[0] |= {"isBezier": True, "controlPoint2": {"x": 40, "y": 0}}
    bent[1] |= {"isBezier": True, "controlPoint1": {"x": 60, "y": 0}}
    curved = mask_of(region("vectorlabels", vertices=bent, closed=True))
    straight = mask_of(region("vectorlabels", vertices=VERTICES, closed=True))
    assert curved is not None
    assert straight is not None
    assert curved.sum() > straight.sum() + 100
    assert curved[5, 30]


@pytest.mark.parametrize("scale", [1, 2])
def test_a_bitmask_is_read_at_any_size(scale: int) -> None:
    buffer = io.BytesIO()
    grown = np.kron(square(), np.ones((scale, scale), bool))
    Image.fromarray(grown.astype(np.uint8) * 255).save(buffer, format="PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    mask = mask_of(region("bitmasklabels", imageDataURL=url))
    assert mask is not None
    assert np.array_equal(mask, square())


@pytest.mark.parametrize(
    "prompt",
    [
        region("keypointlabels", x=1, y=2, width=1),
        region("rectanglelabels", x=1, y=2, width=3, height=4),
        region("ellipselabels", x=1, y=2, radiusX=3, radiusY=4),
        {"type": "textarea", "value": {"text": ["a cup"]}},
        region("brushlabels", format="rle", touches=[]),
        region("polygonlabels", points=[[1, 2], [3, 4]]),
        region("vectorlabels", vertices=VERTICES, closed=False),
        region("bitmasklabels"),
        {},
        {"type": "brushlabels", "value": None},
    ],
)
def test_what_is_no_mask_gives_none(prompt: dict[str, Any]) -> None:
    assert mask_of(prompt) is None


@pytest.mark.parametrize(
    "damaged",
    [
        region("brushlabels", rle=[1, 2, 3]),
        region("brushlabels", rle="text"),
        region("brushlabels", rle=None),
        region("polygonlabels", points="none"),
        region("polygonlabels", points=[[1, 2], [3, "x"], [4, 5]]),
        region("polygonlabels", points=[[1, 2], [3, float("nan")], [4, 5]]),
        region("polygonlabels", points=[[1, 2, 3], [3, 4, 5], [4, 5, 6]]),
        region("polygonlabels", points=[1, 2, 3]),
        region("vectorlabels", vertices=[{"x": 1}] * 3, closed=True),
        region("vectorlabels", vertices=[1, 2, 3], closed=True),
        region("bitmasklabels", imageDataURL="data:image/svg+xml,<svg/>"),
        region("bitmasklabels", imageDataURL="data:image/png;base64,%%%"),
        region("bitmasklabels", imageDataURL="data:image/png;base64,AAAA"),
    ],
)
def test_damage_is_one_of_our_errors(damaged: dict[str, Any]) -> None:
    with pytest.raises((RleError, ImageError)):
        mask_of(damaged)


@pytest.mark.parametrize("size", [0, -3, None, "40", 2**20, 1.5])
def test_a_size_that_cannot_be_is_refused(size: Any) -> None:
    drawn = region("polygonlabels", points=CORNERS) | {
        "original_height": size,
        "original_width": size,
    }
    with pytest.raises(MaskloopError, match="original_width"):
        mask_of(drawn)


def test_labels() -> None:
    assert label_of(region("brushlabels")) == "Cat"
    assert label_of({"type": "brush", "value": {"labels": ["Dog"]}}) == "Dog"
    assert label_of({"type": "textarea", "value": {"text": ["x"]}}) is None
    assert label_of({}) is None
