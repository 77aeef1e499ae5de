"""What annotators draw for the model, as drafts hold it, and what damaged drafts hold.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from backend.request.hints import MOST_HINTS, read_hints
from backend.request.prompts import Mark, prompt_of
from backend.request.question import TaskView, words_mark
from model.errors import MaskloopError
from model.network.prompts import MAX_TEXT, check_prompt
from model.network.rasterise import prompt_map
from pipeline.labelstudio.config import read_label_config
from pipeline.labelstudio.strokes import CANVAS, MOST_POINTS, strokes_mask
from pipeline.masks.ops import to_layer_png
from pipeline.masks.rle import encode

HEIGHT, WIDTH = 200, 400
SIGNS = '<Label value="On" model_hint="positive"/><Label value="Off" model_hint="negative"/>'
HINTS = {
    "brush": "BrushLabels",
    "polygon": "PolygonLabels",
    "ellipse": "EllipseLabels",
    "rectangle": "RectangleLabels",
    "keypoint": "KeyPointLabels",
    "vector": "VectorLabels",
    "bitmask": "BitMaskLabels",
}
CONFIG = read_label_config(
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>'
    '<KeyPointLabels name="click" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>'
    '<TextArea name="words" toName="image" smart="true"/>'
    + "".join(f'<{tag} name="{name}" toName="image">{SIGNS}</{tag}>' for name, tag in HINTS.items())
    + "</View>"
)


def region(kind: str, label: str = "On", **changes: Any) -> dict[str, Any]:
    """A region as a draft holds it; ``changes`` that are not its own fields go into its value."""
    outer = ("id", "from_name", "type", "original_width", "original_height")
    kept = {name: changes.pop(name) for name in outer if name in changes}
    return {
        "id": "h",
        "type": f"{kind}labels",
        "from_name": kind,
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "origin": "manual",
        "value": {**changes, f"{kind}labels": [label]},
        **kept,
    }


def view(*regions: Any) -> TaskView:
    shown = {each["id"]: each for each in regions}
    return TaskView(3, {}, kept=shown, drawn=shown)


def hints(*regions: Any) -> list[Mark]:
    return read_hints(view(*regions), CONFIG, HEIGHT, WIDTH)


def touch(*flat: Any, width: Any = 1.0, kind: str = "add") -> dict[str, Any]:
    """A stroke through (x, y, x, y ...) in percent; its width is in percent of the image's."""
    return {
        "id": "t",
        "type": kind,
        "points": [7] * len(flat),  # on the screen; not read
        "relativePoints": list(flat),
        "strokeWidth": 15,
        "relativeStrokeWidth": width,
        "eraserSize": 25,
    }


def drawn(mark: Mark) -> NDArray[np.bool_]:
    """The map of a mark that the network gets as its input."""
    prompt = prompt_of([mark])
    check_prompt(prompt)
    shown = prompt_map(prompt, (HEIGHT, WIDTH), (HEIGHT, WIDTH), 5)
    return np.asarray(shown.numpy()[1 if mark.positive else 2] > 0.5)


def rectangle_mask(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / (one | other).sum())


# --- each shape ---


@pytest.mark.parametrize(("label", "positive"), [("On", True), ("Off", False)])
def test_a_polygon_becomes_an_outline_in_pixels(label: str, positive: bool) -> None:
    (mark,) = hints(
        region("polygon", label, points=[[10, 10], [30, 10], [30, 60], [10, 60]], closed=True)
    )
    assert (mark.id, mark.kind, mark.positive) == ("h", "polygon", positive)
    assert list(mark.points) == [(40, 20), (120, 20), (120, 120), (40, 120)]
    assert (mark.x, mark.y) == (80, 70)
    assert overlap(drawn(mark), rectangle_mask(20, 40, 120, 120)) > 0.95


def test_an_ellipse_has_its_radii_in_percent_of_width_and_of_height() -> None:
    (mark,) = hints(region("ellipse", x=50, y=50, radiusX=25, radiusY=10, rotation=0))
    assert (mark.kind, mark.positive) == ("polygon", True)
    assert (mark.x, mark.y) == pytest.approx((200, 100), abs=0.01)
    xs, ys = zip(*mark.points, strict=True)
    assert (min(xs), max(xs), min(ys), max(ys)) == pytest.approx((100, 300, 80, 120), abs=0.01)
    for x, y in mark.points:
        assert ((x - 200) / 100) ** 2 + ((y - 100) / 20) ** 2 == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("turn", [30, 90, -45, 400])
def test_an_ellipse_is_turned_clockwise_about_its_middle(turn: float) -> None:
    (mark,) = hints(region("ellipse", x=50, y=50, radiusX=20, radiusY=10, rotation=turn))
    # Its long axis, 80 pixels each way, points down to the right at small turns.
    tip = np.array(mark.points[0]) - (200, 100)
    angle = math.radians(turn)
    assert tip == pytest.approx((80 * math.cos(angle), 80 * math.sin(angle)), abs=0.02)
    distances = np.linalg.norm(np.array(mark.points) - (200, 100), axis=1)
    assert (distances.min(), distances.max()) == pytest.approx((20, 80), abs=0.02)


def test_an_ellipse_without_a_turn_is_upright() -> None:
    plain = hints(region("ellipse", x=50, y=50, radiusX=20, radiusY=10))
    assert plain == hints(region("ellipse", x=50, y=50, radiusX=20, radiusY=10, rotation=0))


def test_a_rectangle_on_the_object_is_a_box() -> None:
    (mark,) = hints(region("rectangle", x=10, y=20, width=30, height=40, rotation=0))
    assert mark == Mark("h", "box", True, 40, 40, 160, 120)


def test_a_rectangle_off_the_object_is_an_area_to_keep_out_of() -> None:
    (mark,) = hints(region("rectangle", "Off", x=10, y=20, width=30, height=40, rotation=0))
    assert (mark.kind, mark.positive) == ("polygon", False)
    assert set(mark.points) == {(40, 40), (160, 40), (160, 120), (40, 120)}


def test_a_turned_rectangle_off_the_object_is_no_larger_than_drawn() -> None:
    # 200 by 20 pixels, turned clockwise by 45 degrees about its top left corner.
    (mark,) = hints(region("rectangle", "Off", x=25, y=10, width=50, height=10, rotation=45))
    assert drawn(mark).sum() == pytest.approx(200 * 20, rel=0.1)


def test_a_keypoint_is_a_click_and_its_label_says_of_what_sign() -> None:
    (on,) = hints(region("keypoint", x=25, y=50, width=0.4))
    (off,) = hints(region("keypoint", "Off", x=25, y=50, width=0.4))
    assert on == Mark("h", "click", True, 100, 100)
    assert off == Mark("h", "click", False, 100, 100)


def test_each_stroke_is_a_scribble_of_its_width() -> None:
    strokes = [touch(10, 20, 30, 20, 50, 40, width=2.5), touch(1, 1)]
    first, second = hints(region("brush", "Off", touches=strokes))
    assert (first.id, first.kind, first.positive) == ("h/0", "scribble", False)
    assert list(first.points) == [(40, 40), (120, 40), (200, 80)]
    assert (first.x, first.y) == (120, 40)  # the middle point of the stroke
    assert first.width == 10  # 2.5 % of 400
    assert (second.id, second.points, second.width) == ("h/1", ((4, 2),), 4)
    check_prompt(prompt_of([first, second]))


def test_the_hair_brush_still_leaves_a_line() -> None:
    (mark,) = hints(region("brush", touches=[touch(10, 20, 30, 20, width=0)]))
    assert mark.width == 1


def test_where_something_was_erased_what_is_left_is_one_area() -> None:
    erased = [touch(10, 50, 90, 50, width=10), touch(50, 0, 50, 100, width=20, kind="eraser")]
    (mark,) = hints(region("brush", touches=erased))
    assert (mark.id, mark.kind) == ("h", "polygon")
    shown = drawn(mark)
    assert shown[100, 100]
    assert shown[100, 300]
    assert shown[:, 170:230].sum() <= 2 * 60  # at most a bridge without width


def test_strokes_painted_over_what_was_erased_count() -> None:
    again = [
        touch(10, 50, 90, 50, width=10),
        touch(50, 0, 50, 100, width=20, kind="eraser"),
        touch(45, 50, 55, 50, width=10),
    ]
    (mark,) = hints(region("brush", touches=again))
    assert drawn(mark)[95:105, 180:220].all()


def test_where_all_was_erased_nothing_is_said() -> None:
    gone = [touch(50, 50, width=2), touch(50, 50, width=20, kind="eraser")]
    assert hints(region("brush", touches=gone)) == []


@pytest.mark.parametrize("kind", ["brush", "bitmask"])
def test_pixels_become_the_outline_around_them(kind: str) -> None:
    mask = rectangle_mask(50, 100, 150, 300)
    url = "data:image/png;base64," + base64.b64encode(to_layer_png(mask)).decode()
    value = {"imageDataURL": url} if kind == "bitmask" else {"rle": list(encode(mask))}
    (mark,) = hints(region(kind, "Off", **value))
    assert (mark.id, mark.kind, mark.positive) == ("h", "polygon", False)
    assert overlap(drawn(mark), mask) > 0.97


def test_pixels_of_another_size_are_brought_to_the_images() -> None:
    half = rectangle_mask(50, 100, 150, 300)[::2, ::2]
    sizes: dict[str, Any] = {"original_height": HEIGHT // 2, "original_width": WIDTH // 2}
    (mark,) = hints(region("brush", rle=list(encode(half)), **sizes))
    assert overlap(drawn(mark), rectangle_mask(50, 100, 150, 300)) > 0.95


def test_a_closed_path_is_an_area_and_an_open_one_is_nothing() -> None:
    vertices = [
        {"id": str(k), "x": x, "y": y, "isBezier": False}
        for k, (x, y) in enumerate([(25, 25), (75, 25), (75, 75), (25, 75)])
    ]
    (mark,) = hints(region("vector", vertices=vertices, closed=True))
    assert mark.kind == "polygon"
    assert overlap(drawn(mark), rectangle_mask(50, 100, 150, 300)) > 0.97
    assert hints(region("vector", vertices=vertices, closed=False)) == []


def test_the_text_box_gives_its_last_words() -> None:
    words = {"id": "w", "type": "textarea", "from_name": "words", "value": {"text": ["a", " b  c"]}}
    assert hints(words) == [words_mark("w", words)]
    assert hints(words)[0].text == "b c"
    longer = words | {"value": {"text": ["x" * 10_000]}}
    (mark,) = hints(longer)
    assert mark.text is not None
    assert len(mark.text) == MAX_TEXT + 1  # so that the model can refuse it as too long


# --- which regions are hints ---


def test_masks_and_prompts_are_no_hints() -> None:
    points = [[10, 10], [30, 10], [30, 60]]
    assert hints(region("polygon", from_name="mask", points=points)) == []
    assert hints(region("polygon", "Cat", points=points)) == []
    assert hints(region("polygon", from_name="elsewhere", points=points)) == []
    assert hints(region("keypoint", "Cat", from_name="click", x=1, y=2)) == []
    nameless = region("polygon", points=points)
    del nameless["from_name"]
    assert hints(nameless) == []


def test_a_config_without_a_text_box_takes_no_words() -> None:
    plain = read_label_config(
        '<View><Image name="image" value="$image"/>'
        '<BrushLabels name="mask" toName="image"><Label value="Cat"/></BrushLabels>'
        '<KeyPointLabels name="click" toName="image" smart="true"><Label value="Cat"/>'
        "</KeyPointLabels></View>"
    )
    lost = {"id": "w", "type": "textarea", "value": {"text": ["cup"]}}
    shown = view(lost, lost | {"id": "v", "from_name": "words"}, lost | {"id": "u", "from_name": 7})
    assert read_hints(shown, plain, HEIGHT, WIDTH) == []


def test_hints_come_in_the_order_they_were_drawn() -> None:
    made = [region("keypoint", id=name, x=1, y=2) for name in "cab"]
    assert [mark.id for mark in hints(*made)] == ["c", "a", "b"]


# --- damage, and too much of everything ---


def test_of_very_many_hints_the_newest_count() -> None:
    made = [region("keypoint", id=str(k), x=1, y=2) for k in range(MOST_HINTS + 10)]
    found = hints(*made)
    assert [mark.id for mark in found] == [str(k) for k in range(10, MOST_HINTS + 10)]


def test_hints_that_do_not_count_are_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    bombs = [
        region("bitmask", id=f"old{n}", imageDataURL="data:image/png;base64,AAAA") for n in range(9)
    ]
    newest = [region("keypoint", id=str(n), x=n / 2, y=50) for n in range(MOST_HINTS)]
    monkeypatch.setattr("backend.request.hints.mask_of", None)  # A call for a bitmask would fail.
    assert [mark.id for mark in hints(*bombs, *newest)] == [str(n) for n in range(MOST_HINTS)]


def test_a_line_of_very_many_points_is_thinned_along_its_length() -> None:
    n = 20 * MOST_POINTS
    places = [[100 * k / n, 50.0] for k in range(n)]
    (outline,) = hints(region("polygon", points=places))
    flat = [number for place in places for number in place]
    (stroke,) = hints(region("brush", touches=[touch(*flat)]))
    for mark in (outline, stroke):
        assert MOST_POINTS / 2 < len(mark.points) <= MOST_POINTS
        assert list(mark.points[0]) == [0, 100]
        assert mark.points[-1][0] > 0.99 * WIDTH
        check_prompt(prompt_of([mark]))


GOOD = region("keypoint", id="good", x=25, y=50)
STROKE = touch(10, 10, 20, 20)
SQUARE = [[10, 10], [30, 10], [30, 60]]


@pytest.mark.parametrize(
    "damaged",
    [
        region("polygon"),
        region("polygon", points=None),
        region("polygon", points=[]),
        region("polygon", points={"0": [1, 2]}),
        region("polygon", points=[[1, 2], [3, "4"], [5, 6]]),
        region("polygon", points=[[1, 2], [3, None], [5, 6]]),
        region("polygon", points=[[1, 2], [3, math.nan], [5, 6]]),
        region("polygon", points=[[1, 2], [3, math.inf], [5, 6]]),
        region("polygon", points=[[1, 2], [3, 10**400], [5, 6]]),
        region("polygon", points=[[1, 2], [3, [4]], [5, 6]]),
        region("polygon", points=[[1, 2], [3], [5, 6]]),
        region("polygon", points=[[1, 2], [3, 4, 5]]),
        region("polygon", points=[1, 2, 3]),
        region("ellipse"),
        region("ellipse", x=1, y=2, radiusX="3", radiusY=4),
        region("ellipse", x=1, y=2, radiusX=3),
        region("ellipse", x=1, y=2, radiusX=3, radiusY=4, rotation="left"),
        region("ellipse", x=math.nan, y=2, radiusX=3, radiusY=4),
        region("rectangle", x=1, y=2, width=3),
        region("rectangle", x=1, y=2, width=math.inf, height=3),
        region("rectangle", x=[1], y=2, width=3, height=3),
        region("keypoint", y=2),
        region("keypoint", x=True, y=2),
        region("keypoint", x="1", y=2),
        region("brush"),
        region("brush", touches=[]),
        region("brush", touches="add"),
        region("brush", touches=[None, 7, {}, []]),
        region("brush", touches=[STROKE | {"relativePoints": None}]),
        region("brush", touches=[STROKE | {"relativePoints": []}]),
        region("brush", touches=[STROKE | {"relativePoints": [1]}]),
        region("brush", touches=[STROKE | {"relativePoints": [1, "2"]}]),
        region("brush", touches=[STROKE | {"relativePoints": [[1, 2], [3, 4]]}]),
        region("brush", touches=[STROKE | {"relativePoints": [1, math.nan]}]),
        region("brush", touches=[STROKE | {"relativeStrokeWidth": "thick"}]),
        region("brush", touches=[STROKE | {"relativeStrokeWidth": math.inf}]),
        region("brush", touches=[STROKE | {"relativeStrokeWidth": None}]),
        region("brush", touches=[touch(1, 2, kind="eraser")]),
        region("brush", touches=[STROKE, touch(1, math.nan, kind="eraser")]),
        region("brush", rle=[1, 2, 3]),
        region("brush", rle="text"),
        region("brush", rle=list(encode(rectangle_mask(0, 0, 0, 0)))),
        region("brush", rle=list(encode(rectangle_mask(0, 0, 9, 9))), original_width=7),
        region("bitmask", imageDataURL="data:image/png;base64,AAAA"),
        region("bitmask", imageDataURL=[1]),
        region("vector", vertices=[{"x": 1}] * 3, closed=True),
        region("vector", vertices=7, closed=True),
        region("polygon", points=SQUARE) | {"value": None},
        region("polygon", points=SQUARE) | {"value": [1]},
        region("polygon", points=SQUARE) | {"type": None},
        region("polygon", points=SQUARE) | {"type": ["polygonlabels"]},
        region("polygon", points=SQUARE) | {"from_name": {"a": 1}},
        region("polygon", points=SQUARE) | {"value": {"polygonlabels": "On"}},
        region("polygon", points=SQUARE) | {"value": {"polygonlabels": [["On"]]}},
        {"id": "h"},
        {"id": "h", "type": "textarea", "from_name": "words"},
        {"id": "h", "type": "textarea", "from_name": "words", "value": {"text": []}},
        {"id": "h", "type": "textarea", "from_name": "words", "value": {"text": [" "]}},
        {"id": "h", "type": "textarea", "from_name": "words", "value": {"text": [["cup"]]}},
        {"id": "h", "type": "textarea", "from_name": "words", "value": {"text": "\0"}},
    ],
    ids=lambda damaged: json.dumps(damaged.get("value"))[:40],
)
def test_a_damaged_hint_is_left_out_and_the_others_count(damaged: Any) -> None:
    assert hints(damaged, GOOD) == [Mark("good", "click", True, 100, 100)]


# numpy warns about numbers near the largest possible ones; these tests check its results.
numpy_may_warn = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def far(factor: float) -> list[Any]:
    """Hints whose numbers are finite, but far outside any image."""
    out = factor
    return [
        region("keypoint", x=out, y=-out),
        region("rectangle", x=-out, y=-out, width=2 * out, height=2 * out),
        region("rectangle", "Off", x=-out, y=-out, width=2 * out, height=2 * out, rotation=30),
        region("ellipse", x=50, y=50, radiusX=out, radiusY=out, rotation=30),
        region("ellipse", x=out, y=50, radiusX=out, radiusY=1),
        region("polygon", points=[[-out, -out], [out, -out], [out, out], [-out, out]]),
        region("brush", touches=[touch(-out, 50, out, 50, width=2)]),
        region("brush", touches=[touch(10, 10, 20, 20, width=out)]),
        region("brush", touches=[STROKE, touch(-out, 15, out, 15, kind="eraser")]),
        region("brush", touches=[STROKE, touch(90, 90, width=out, kind="eraser")]),
        region("brush", touches=[touch(10, 10, 90, 90, width=out), touch(5, 5, kind="eraser")]),
    ]


def check_hints(*regions: Any) -> None:
    """The network and the log accept what is read of any drawing, and other hints are kept."""
    found = hints(*regions, GOOD)
    assert found[-1] == Mark("good", "click", True, 100, 100)
    check_prompt(prompt_of(mark for mark in found if mark.kind != "text"))
    for mark in found:
        json.dumps(mark.to_json(), allow_nan=False)
    for each in regions:
        with suppress(MaskloopError):
            strokes_mask(each)


@pytest.mark.parametrize("place", range(len(far(1.0))))
@pytest.mark.parametrize("factor", [150.0, 1000.0])
def test_what_is_drawn_beyond_the_image_is_taken(factor: float, place: int) -> None:
    check_hints(far(factor)[place])


FAR = range(len(far(1.0)))


@numpy_may_warn
@pytest.mark.parametrize("place", FAR)
def test_numbers_beyond_all_measure_cost_nobody_the_answer(place: int) -> None:
    for factor in (1e5, 1e9, 1e15, 1e306, 1e308):
        check_hints(far(factor)[place])


@pytest.mark.parametrize("kind", ["polygon", "brush"])
def test_many_long_hints_are_still_one_prompt(kind: str) -> None:
    places = [[50 + 40 * math.cos(k), 50 + 40 * math.sin(k)] for k in range(MOST_POINTS - 1)]
    flat = [number for place in places for number in place]
    value: dict[str, Any] = {"touches": [touch(*flat)]} if kind == "brush" else {"points": places}
    check_hints(*(region(kind, id=str(k), **value) for k in range(MOST_HINTS)))


def test_a_size_that_is_no_number_costs_nobody_the_answer() -> None:
    vertices = [{"x": x, "y": y} for x, y in SQUARE]
    check_hints(region("vector", vertices=vertices, closed=True, original_width=True))


def hostile(number: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Hints of every kind whose values are mostly right, and sometimes odd or missing."""
    odd = (
        st.none()
        | st.booleans()
        | st.sampled_from([math.nan, math.inf, -math.inf, 10**400, "5", "", "\ud800"])
        | st.lists(st.integers(0, 9), max_size=3)
        | st.dictionaries(st.text(max_size=2), st.none())
    )

    def mostly(usual: st.SearchStrategy[Any], share: int = 20) -> st.SearchStrategy[Any]:
        return st.integers(1, share).flatmap(lambda k: odd if k == share // 2 else usual)

    def numbers(*names: str) -> dict[str, st.SearchStrategy[Any]]:
        return dict.fromkeys(names, mostly(number))

    pairs = st.lists(mostly(st.lists(mostly(number), min_size=2, max_size=2)), max_size=5)
    strokes = st.fixed_dictionaries(
        {
            "relativePoints": mostly(st.lists(mostly(number), min_size=2, max_size=6)),
            "relativeStrokeWidth": mostly(number),
            "type": st.sampled_from(["add", "eraser", None]),
        },
    )
    pull = mostly(st.fixed_dictionaries(numbers("x", "y")))
    vertices = st.fixed_dictionaries(
        {**numbers("x", "y"), "isBezier": st.booleans()},
        optional={"controlPoint1": pull, "controlPoint2": pull},
    )
    fields: dict[str, dict[str, st.SearchStrategy[Any]]] = {
        "keypoint": numbers("x", "y"),
        "rectangle": numbers("x", "y", "width", "height", "rotation"),
        "ellipse": numbers("x", "y", "radiusX", "radiusY", "rotation"),
        "polygon": {"points": mostly(pairs)},
        "brush": {"touches": mostly(st.lists(mostly(strokes), max_size=3))},
        "vector": {
            "vertices": mostly(st.lists(mostly(vertices), min_size=2, max_size=4)),
            "closed": st.just(True),
        },
        "bitmask": {"imageDataURL": mostly(st.text(max_size=4))},
    }

    @st.composite
    def regions(draw: st.DrawFn) -> dict[str, Any]:
        kind = draw(st.sampled_from(sorted(fields)))
        value = draw(st.fixed_dictionaries(fields[kind]))
        for name in draw(st.sets(st.sampled_from(sorted(value)), max_size=1)):
            if draw(st.integers(0, 3)) == 0:
                del value[name]
        made = region(kind, draw(st.sampled_from(["On", "Off"])), **value)
        for name in draw(st.sets(st.sampled_from(sorted(made)), max_size=2)):
            if draw(st.integers(0, 7)) == 0:
                made[name] = draw(odd.filter(lambda each: not isinstance(each, bool)))
        return made | {"id": draw(st.sampled_from("abcdef"))}

    return regions()


@numpy_may_warn
@settings(max_examples=300, deadline=None)
@given(st.lists(hostile(st.floats(-1000, 1000)), max_size=3))
@example([region("polygon", points=[[math.nan, 1]]), region("brush", touches=[STROKE])])
def test_any_draft_is_read_without_an_exception(drawings: list[Any]) -> None:
    check_hints(*drawings)


@numpy_may_warn
@settings(max_examples=300, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.lists(hostile(st.floats(allow_nan=False, allow_infinity=False)), max_size=3))
def test_any_number_is_read_without_an_exception(drawings: list[Any]) -> None:
    check_hints(*drawings)


# --- strokes as pixels ---


def test_strokes_paint_what_the_editor_shows() -> None:
    mask = strokes_mask(region("brush", touches=[touch(10, 50, 90, 50, width=5)]))
    assert mask is not None
    assert mask.shape == (HEIGHT, WIDTH)
    assert overlap(mask, rectangle_mask(90, 40, 110, 360)) > 0.9
    assert abs(int(mask[:, 200].sum()) - 20) <= 1


def test_large_images_are_painted_small() -> None:
    wide = region("brush", touches=[touch(0, 50, 100, 50, width=1)], original_width=40_000)
    mask = strokes_mask(wide | {"original_height": 20_000})
    assert mask is not None
    assert mask.shape == (CANVAS // 2, CANVAS)
    assert mask[CANVAS // 4, CANVAS // 2]


@pytest.mark.parametrize(
    "strokeless",
    [
        {},
        {"value": None},
        region("brush"),
        region("brush", touches=None),
        region("polygon", points=SQUARE),
        region("brush", touches=[STROKE], original_width=0),
        region("brush", touches=[STROKE], original_width=-4),
        region("brush", touches=[STROKE], original_width="400"),
        region("brush", touches=[STROKE], original_height=None),
        region("brush", touches=[STROKE], original_height=10**9),
    ],
)
def test_what_has_no_strokes_paints_nothing(strokeless: Any) -> None:
    assert strokes_mask(strokeless) is None


def test_strokes_are_painted_over_the_pixels_that_were_saved() -> None:
    saved = rectangle_mask(20, 20, 60, 120)
    erased = region("brush", touches=[touch(10, 40, 90, 40, width=20, kind="eraser")])
    painted = strokes_mask(erased, saved)
    assert painted is not None
    assert 0 < np.count_nonzero(painted) < np.count_nonzero(saved)
    assert not (painted & ~saved).any()
