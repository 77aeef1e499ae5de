"""The cached masks of the drawings that every request sends again."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.process import region_masks
from backend.process.region_masks import RegionMasks
from pipeline.labelstudio.regions import brush_region, mask_of, same_drawing
from pipeline.masks.coded import CodedMask

HEIGHT, WIDTH = 60, 80
SQUARE = np.zeros((HEIGHT, WIDTH), np.bool_)
SQUARE[10:50, 10:50] = True


def brush(**value: Any) -> dict[str, Any]:
    made = brush_region(
        region_id="a", mask=CodedMask.of_mask(SQUARE), label="Cat",
        from_name="mask", to_name="image",
    )  # fmt: skip
    return made | {"value": made["value"] | value}


def polygon(*points: Any) -> dict[str, Any]:
    sizes = {"original_height": HEIGHT, "original_width": WIDTH}
    return {"id": "p", "type": "polygonlabels", "value": {"points": list(points)}, **sizes}


ERASER = {"type": "eraser", "relativePoints": [10, 50, 60, 50], "relativeStrokeWidth": 20}


def test_what_was_erased_since_it_was_saved_is_gone() -> None:
    known = RegionMasks()
    whole, less = known.mask(brush()), known.mask(brush(touches=[ERASER]))
    assert whole is not None and less is not None
    assert 0 < less.sum() < 0.9 * whole.sum() and not (less & ~whole).any()
    assert not same_drawing(brush(touches=[ERASER]), brush())
    assert same_drawing(brush(touches=[]), brush())


@pytest.mark.parametrize("region", [brush(), polygon([10, 10], [50, 10], [50, 50])])
def test_each_kind_is_read_once(region: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    known = RegionMasks()
    first = known.mask(region)
    monkeypatch.setattr(region_masks, "mask_of", None)
    again = known.mask(region)
    assert first is not None and again is not None and (first == again).all()


def test_a_damaged_twin_does_not_stand_for_it() -> None:
    known = RegionMasks()
    for damage in ({"original_height": str(HEIGHT)}, {"type": "polygonlabels"}):
        assert known.mask(brush() | damage) is None
    good = known.mask(brush())
    assert good is not None and (good == SQUARE).all()
    assert known.mask(polygon([10, 10], [50, 10], [50, 50])) is not None
    assert known.mask(polygon([10, 10], [50, 10], [50, 51])) is not None


@pytest.mark.parametrize(
    "region",
    [
        None,
        {},
        {"value": 7},
        brush() | {"original_height": "\ud800"},
        brush(rle=[-1]),
        brush(rle="\ud800"),
    ],
)
def test_what_cannot_be_read_is_no_mask(region: Any) -> None:
    assert RegionMasks().mask(region) is None


def test_a_few_bytes_that_claim_very_many_pixels_are_not_unpacked() -> None:
    file = io.BytesIO()
    Image.new("1", (5000, 5000)).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    sizes = {"original_height": HEIGHT, "original_width": WIDTH}
    bomb = {"id": "b", "type": "bitmasklabels", "value": {"imageDataURL": url}, **sizes}
    with pytest.raises(Exception, match="too many pixels"):
        mask_of(bomb)
    assert RegionMasks().mask(bomb) is None
