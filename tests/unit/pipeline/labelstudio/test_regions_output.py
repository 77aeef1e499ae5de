"""Masks as regions of the kind that the labelling config asks for, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis.extra import numpy as npst
from scipy.ndimage import distance_transform_edt

from model.masks import Mask, iou
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.regions import (
    brush_region,
    label_of,
    mask_of,
    output_region,
    same_drawing,
)
from pipeline.labelstudio.template import OUTPUT_TAGS, Output
from pipeline.masks.coded import CodedMask

HEIGHT, WIDTH = 120, 200
OUTPUTS = list(OUTPUT_TAGS)
OUTLINES: list[Output] = ["polygon", "vector"]


def config_for(output: Output) -> LabelConfig:
    tag = OUTPUT_TAGS[output]
    return read_label_config(
        '<View><Image name="img" value="$image"/>'
        f'<{tag} name="made" toName="img"><Label value="Cat"/></{tag}>'
        '<KeyPointLabels name="click" toName="img" smart="true"><Label value="Cat"/>'
        "</KeyPointLabels></View>"
    )


CONFIGS = {output: config_for(output) for output in OUTPUTS}


def made(mask: Mask, output: Output, **changes: Any) -> dict[str, Any]:
    """The region of a mask, as it comes out of the JSON it is sent in."""
    values: dict[str, Any] = {
        "region_id": "r",
        "mask": CodedMask.of_mask(mask),
        "label": "Cat",
        "config": CONFIGS[output],
        "score": 0.87654321,
        **changes,
    }
    region: dict[str, Any] = json.loads(json.dumps(output_region(**values), allow_nan=False))
    return region


def back(region: dict[str, Any]) -> Mask:
    mask = mask_of(region)
    assert mask is not None
    return mask


def disk(row: float, column: float, radius: float) -> Mask:
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    return np.asarray((rows - row) ** 2 + (columns - column) ** 2 <= radius**2)


def corners(region: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(column, row) of an outline's corners in pixels."""
    value = region["value"]
    if "points" in value:
        places = value["points"]
    else:
        places = [(vertex["x"], vertex["y"]) for vertex in value["vertices"]]
    size = region["original_width"], region["original_height"]
    return np.asarray(np.array(places) / 100 * size, np.float64)


def ring() -> Mask:
    return disk(60, 80, 40) & ~disk(60, 80, 20)


def parts() -> Mask:
    return disk(40, 40, 25) | disk(80, 150, 20)


def box() -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[20:90, 30:160] = True
    return mask


SHAPES = {"box": box(), "disk": disk(60, 80, 40), "ring": ring(), "parts": parts()}


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_region_names_what_the_config_names(output: Output) -> None:
    region = made(box(), output, rotation=90)
    kind = OUTPUT_TAGS[output].lower()
    assert region["type"] == kind
    assert region["value"][kind] == ["Cat"]
    assert (region["from_name"], region["to_name"], region["id"]) == ("made", "img", "r")
    assert (region["original_height"], region["original_width"]) == (HEIGHT, WIDTH)
    assert (region["score"], region["image_rotation"]) == (0.8765, 90)
    assert label_of(region) == "Cat"
    assert "score" not in made(box(), output, score=None)


def test_a_brush_region_is_the_same_as_ever() -> None:
    plain = brush_region(
        region_id="r",
        mask=CodedMask.of_mask(box()),
        label="Cat",
        from_name="made",
        to_name="img",
        score=0.87654321,
    )
    assert made(box(), "brush") == plain


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("output", ["brush", "bitmask"])
def test_pixels_come_back_exactly(output: Output, shape: str) -> None:
    assert np.array_equal(back(made(SHAPES[shape], output)), SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("output", OUTLINES)
def test_outlines_come_back_nearly(output: Output, shape: str) -> None:
    mask = SHAPES[shape]
    found = back(made(mask, output))
    assert iou(found, mask) > 0.97
    off = distance_transform_edt(found == mask)[found != mask]
    assert off.size == 0 or shape == "parts" or off.max() <= 1.5  # a bridge may be drawn


def test_a_box_comes_back_from_its_four_corners() -> None:
    for output in OUTLINES:
        region = made(box(), output)
        assert len(corners(region)) == 4
        assert np.array_equal(back(region), box())


def test_a_hole_is_no_part_of_the_outline() -> None:
    for output in OUTLINES:
        found = back(made(ring(), output))
        assert not found[60, 80]
        assert not (found & disk(60, 80, 18)).any()
        assert (found & ring()).sum() > 0.98 * ring().sum()


def test_of_several_parts_none_is_lost() -> None:
    for output in OUTLINES:
        found = back(made(parts(), output))
        assert found[40, 40]
        assert found[80, 150]
        assert (found & parts()).sum() > 0.98 * parts().sum()
        assert (found & ~parts()).sum() < 0.03 * parts().sum()


@pytest.mark.parametrize("output", OUTLINES)
def test_between_parts_there_is_nothing(output: Output) -> None:
    found = back(made(parts(), output))
    away = distance_transform_edt(~parts()) > 2
    assert not (found & away).any()


@pytest.mark.parametrize("output", OUTPUTS)
def test_one_pixel_comes_back(output: Output) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[HEIGHT - 1, WIDTH - 1] = True
    assert np.array_equal(back(made(mask, output)), mask)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_diagonal_line_comes_back(output: Output) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[np.arange(10, 100), np.arange(20, 110)] = True
    assert back(made(mask, output)).sum() < 3 * mask.sum()


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_line_across_comes_back(output: Output) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[50, 10:190] = True
    assert np.array_equal(back(made(mask, output)), mask)


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_empty_mask_is_no_mask_as_any_kind(output: Output) -> None:
    found = mask_of(made(np.zeros((HEIGHT, WIDTH), np.bool_), output))
    assert found is None or not found.any()


@pytest.mark.parametrize("output", OUTLINES)
@pytest.mark.parametrize("tolerance", [0.0, 0.001, 0.005, 0.05, 1.0])
def test_no_corner_and_no_edge_is_further_off_than_was_said(
    output: Output, tolerance: float
) -> None:
    mask = disk(60, 80, 50)
    mask[55:65, 40:60] = False
    region = made(mask, output, tolerance=tolerance)
    own = 0.01 * np.sqrt(mask.sum())  # a hundredth of the object's own side
    allowed = max(min(tolerance * WIDTH, own), 0.5)
    # Each corner lies on the edge, and each pixel that differs is near it.
    from_edge = np.minimum(distance_transform_edt(mask), distance_transform_edt(~mask))
    columns, rows = corners(region).astype(int).T
    assert from_edge[rows, columns].max() <= 1.0 + allowed
    found = back(region)
    assert from_edge[found != mask].max(initial=0) <= allowed + 1.5


def test_a_large_tolerance_makes_fewer_corners_and_a_small_object_keeps_its_own() -> None:
    large, small = disk(60, 100, 55), disk(60, 80, 6)
    assert len(corners(made(large, "polygon", tolerance=0.5))) < len(
        corners(made(large, "polygon", tolerance=0.0))
    )
    assert made(small, "polygon", tolerance=0.5) == made(small, "polygon", tolerance=0.0)
    assert iou(back(made(small, "polygon", tolerance=0.5)), small) > 0.9


def test_the_corners_of_a_path_follow_each_other() -> None:
    value = made(disk(60, 80, 40), "vector")["value"]
    vertices = value["vertices"]
    assert value["closed"] is True
    names = [vertex["id"] for vertex in vertices]
    assert len(set(names)) == len(names)
    assert [vertex["prevPointId"] for vertex in vertices] == [None, *names[:-1]]
    assert not any(vertex["isBezier"] for vertex in vertices)
    assert made(disk(60, 80, 40), "polygon")["value"]["closed"] is True


masks = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14))


@settings(max_examples=100, deadline=None)
@given(masks)
def test_any_mask_comes_back_exactly_as_pixels(mask: Mask) -> None:
    for output in ("brush", "bitmask"):
        assert np.array_equal(back(made(mask, output)), mask)


@settings(max_examples=100, deadline=None)
@given(npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)))
def test_any_blots_come_back_whole_as_outlines(coarse: Mask) -> None:
    assume(coarse.any())
    mask = np.kron(coarse, np.ones((6, 6), np.bool_)).astype(np.bool_)
    polygon, vector = (back(made(mask, output)) for output in OUTLINES)
    assert np.array_equal(polygon, vector)
    lost = mask & ~polygon
    # Only the very rim, where a step of half a pixel was taken for a slant.
    assert not lost.any() or distance_transform_edt(mask)[lost].max() <= 1.5


# --- the same drawing ---


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_was_sent_is_known_again_however_else_it_changed(output: Output) -> None:
    sent = made(ring(), output)
    kept = {**sent, "origin": "manual", "score": None, "id": "other", "meta": {"text": ["x"]}}
    kept["value"] = {**sent["value"], "labels": ["Dog"]}
    assert same_drawing(kept, sent)
    assert same_drawing(sent, made(ring(), output))


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_part_more_is_another_drawing(output: Output) -> None:
    sent = made(ring(), output)
    other = ring()
    other[:5, :5] = True
    assert not same_drawing(made(other, output), sent)
    assert not same_drawing(made(parts(), output), sent)


def test_a_moved_corner_is_another_drawing() -> None:
    for output, name in (("polygon", "points"), ("vector", "vertices")):
        sent = made(box(), "polygon" if output == "polygon" else "vector")
        moved = json.loads(json.dumps(sent))
        first = moved["value"][name][0]
        first[0 if output == "polygon" else "x"] += 0.01
        assert same_drawing(sent, sent)
        assert not same_drawing(moved, sent)


def test_what_draws_nothing_is_never_the_same() -> None:
    empty: dict[str, Any] = {"value": {"text": ["x"]}}
    broken: list[dict[str, Any]] = [{}, {"value": None}, {"value": [1]}, empty]
    for region in broken:
        for other in (*broken, made(box(), "brush")):
            assert not same_drawing(region, other)
            assert not same_drawing(other, region)


def test_kinds_are_never_the_same_as_each_other() -> None:
    regions = [made(box(), output) for output in OUTPUTS]
    for one in regions:
        assert [same_drawing(one, other) for other in regions].count(True) == 1
