"""Each kind of prompt is drawn into the dense map by the documented rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import PromptError
from model.network.prompts import Box, Click, Polygon, Prompt, Scribble
from model.network.rasterise import draw_clicks, prompt_map

FAR_AWAY = 1e300


def disks(clicks, image_size, map_size, radius):
    canvas = np.zeros(map_size, np.uint8)
    draw_clicks(canvas, clicks, image_size, radius)
    return canvas


def drawn(prompt, image_size=(64, 64), map_size=(64, 64), radius=5):
    """(positive, negative) channels as bool."""
    channels = prompt_map(prompt, image_size, map_size, radius).numpy()
    assert set(np.unique(channels[1:])) <= {0, 1}
    return channels[1] > 0, channels[2] > 0


def test_a_click_is_the_disk_of_pixels_within_the_radius():
    canvas = disks([Click(30, 40)], (100, 100), (100, 100), 5)
    rows, cols = np.indices((100, 100))
    np.testing.assert_array_equal(canvas > 0, (rows - 30) ** 2 + (cols - 40) ** 2 <= 25)


def test_coordinates_scale_per_axis_add_a_half_and_truncate():
    canvas = disks([Click(row=7, col=11)], (20, 50), (64, 64), 0)
    row, col = int(7 * 64 / 20 + 0.5), int(11 * 64 / 50 + 0.5)
    assert np.argwhere(canvas).tolist() == [[row, col]]


def test_a_click_outside_draws_only_what_reaches_inside():
    assert disks([Click(-3, 10)], (50, 50), (50, 50), 5).sum() > 0
    assert disks([Click(-300, 10)], (50, 50), (50, 50), 5).sum() == 0
    assert disks([Click(1e12, -1e12)], (50, 50), (50, 50), 5).sum() == 0


def test_channels_are_mask_positive_negative():
    mask = np.full((4, 4), 0.25, np.float32)
    prompt = Prompt((Click(10, 10), Click(40, 40, positive=False)), mask=mask)
    channels = prompt_map(prompt, (50, 50), (64, 64), 2).numpy()
    np.testing.assert_allclose(channels[0], 0.25)
    assert channels[1, 13, 13] == 1 and channels[2, 13, 13] == 0
    assert channels[2, 51, 51] == 1 and channels[1, 51, 51] == 0


def test_a_box_fills_its_region_whatever_the_order_of_its_edges():
    one, _ = drawn(Prompt(boxes=(Box(10, 20, 30, 40),)))
    other, _ = drawn(Prompt(boxes=(Box(30, 40, 10, 20),)))
    assert one.sum() == 20 * 20 and one[10:30, 20:40].all()
    np.testing.assert_array_equal(one, other)


def test_a_polygon_along_a_box_fills_what_the_box_fills_and_its_outline():
    corners = ((10, 20), (10, 40), (30, 40), (30, 20))
    inside, negative = drawn(Prompt(polygons=(Polygon(corners),)))
    box, _ = drawn(Prompt(boxes=(Box(10, 20, 30, 40),)))
    grown, _ = drawn(Prompt(boxes=(Box(9, 19, 31, 41),)))
    assert inside[box].all() and not inside[~grown].any() and not negative.any()


def test_a_polygon_scales_with_the_image():
    small, _ = drawn(Prompt(polygons=(Polygon(((100, 200), (100, 400), (300, 300))),)), (640, 640))
    same, _ = drawn(Prompt(polygons=(Polygon(((10, 20), (10, 40), (30, 30))),)))
    np.testing.assert_array_equal(small, same)


def test_negative_polygons_and_scribbles_go_to_the_negative_channel():
    shape = ((10, 10), (10, 50), (50, 30))
    positive, negative = drawn(Prompt(polygons=(Polygon(shape, positive=False),)))
    assert not positive.any() and negative[20, 30]
    positive, negative = drawn(Prompt(scribbles=(Scribble(shape, positive=False),)))
    assert not positive.any() and negative[10, 30] and not negative[20, 30]


def test_a_scribble_is_as_wide_as_a_click_or_as_its_own_width():
    line = ((32, 10), (32, 54))
    as_click, _ = drawn(Prompt(scribbles=(Scribble(line),)))
    assert as_click[:, 32].sum() == 2 * 5 + 1
    own, _ = drawn(Prompt(scribbles=(Scribble(line, width=21),)))
    assert own[:, 32].sum() == 21
    halved, _ = drawn(Prompt(scribbles=(Scribble(line, width=20),)), (128, 128))
    assert halved[:, 20].sum() in (10, 11)


def test_a_scribble_of_one_point_is_a_click():
    dot, _ = drawn(Prompt(scribbles=(Scribble(((30, 40),)),)))
    click, _ = drawn(Prompt((Click(30, 40),)))
    np.testing.assert_array_equal(dot, click)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(boxes=(Box(5, 5, 5, 5),)),
        Prompt(boxes=(Box(0, 0, 0, 64),)),
        Prompt(polygons=(Polygon(((5, 5), (5, 5), (5, 5))),)),
        Prompt(polygons=(Polygon(((5, 5), (50, 50))),)),
        Prompt(scribbles=(Scribble(((5, 5), (5, 5)), width=0.001),)),
    ],
)
def test_a_shape_without_an_area_still_marks_a_pixel(prompt):
    positive, _ = drawn(prompt, map_size=(32, 32))
    assert positive.any()


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt((Click(-100, 5),)),
        Prompt(boxes=(Box(-9, -9, -5, -5),)),
        Prompt(boxes=(Box(900, 900, 950, 950),)),
        Prompt(polygons=(Polygon(((900, 900), (950, 900), (900, 950))),)),
        Prompt(scribbles=(Scribble(((-900, 0), (-900, 60))),)),
        Prompt((Click(FAR_AWAY, 1),), mask=np.ones((4, 4), np.float32)),
    ],
)
def test_a_prompt_outside_the_image_is_refused_in_a_sentence(prompt):
    with pytest.raises(PromptError, match="outside the image.*\\.$"):
        drawn(prompt)


def test_a_shape_that_reaches_far_outside_is_drawn_where_it_crosses_the_image():
    corners = ((-FAR_AWAY, -FAR_AWAY), (-FAR_AWAY, 32), (FAR_AWAY, 32), (FAR_AWAY, -FAR_AWAY))
    left_half, _ = drawn(Prompt(polygons=(Polygon(corners),)))
    assert left_half[:, :31].all() and not left_half[:, 34:].any()
    across, _ = drawn(Prompt(scribbles=(Scribble(((32, -FAR_AWAY), (32, FAR_AWAY))),)))
    assert across[32].all() and not across[50].any()
    box, _ = drawn(Prompt(boxes=(Box(-FAR_AWAY, -FAR_AWAY, FAR_AWAY, FAR_AWAY),)))
    assert box.all()


coordinates = st.floats(allow_nan=False, allow_infinity=False)
points = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8).map(tuple)
widths = st.none() | st.floats(min_value=1e-300, allow_infinity=False)


@given(
    st.lists(st.builds(Polygon, points, st.booleans()), max_size=3).map(tuple),
    st.lists(st.builds(Scribble, points, widths, st.booleans()), max_size=3).map(tuple),
    st.lists(st.builds(Box, *[coordinates] * 4), max_size=3).map(tuple),
    st.lists(st.builds(Click, coordinates, coordinates, st.booleans()), max_size=3).map(tuple),
)
def test_any_finite_prompt_is_drawn_or_refused(polygons, scribbles, boxes, clicks):
    prompt = Prompt(clicks, boxes, polygons, scribbles)
    try:
        channels = prompt_map(prompt, (37, 91), (32, 64), 5)
    except PromptError:
        return
    assert channels.shape == (3, 32, 64)
    assert channels.min() >= 0 and channels.max() == 1


def test_ten_thousand_points_are_drawn():
    angles = np.linspace(0, 2 * np.pi, 10_000, endpoint=False)
    circle = tuple((32 + 20 * float(np.sin(a)), 32 + 20 * float(np.cos(a))) for a in angles)
    inside, _ = drawn(Prompt(polygons=(Polygon(circle),)))
    assert abs(inside.sum() - np.pi * 20**2) < 0.1 * np.pi * 20**2


def test_kinds_are_freely_combined():
    prompt = Prompt(
        (Click(5, 5, positive=False),),
        (Box(10, 10, 20, 20),),
        (Polygon(((30, 30), (30, 40), (40, 40), (40, 30))),),
        (Scribble(((50, 10), (50, 50)), positive=False),),
        mask=np.full((8, 8), 0.5, np.float32),
        text="anything",
    )
    positive, negative = drawn(prompt)
    assert positive[15, 15] and positive[35, 35] and negative[5, 5] and negative[50, 30]


def test_text_alone_draws_nothing():
    assert not prompt_map(Prompt(text="dog"), (64, 64), (64, 64), 5).any()
