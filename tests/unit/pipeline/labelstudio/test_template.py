"""The labelling configs we write, as our own reader and an XML parser read them."""

from __future__ import annotations

from itertools import product
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import LabelConfigError
from pipeline.labelstudio.config import read_label_config
from pipeline.labelstudio.template import (
    MAX_LABELS,
    OUTPUT_TAGS,
    Output,
    default_label_config,
    write_label_config,
)

OUTPUTS = list(OUTPUT_TAGS)
CHOICES = [
    (output, text, hints) for output, text, hints in product(OUTPUTS, (False, True), (False, True))
]


@pytest.mark.parametrize(("output", "text", "hints"), CHOICES)
def test_what_is_written_is_read_as_it_was_meant(output: Output, text: bool, hints: bool) -> None:
    config = read_label_config(write_label_config(("Cat", "Dog"), output, text=text, hints=hints))
    assert (config.output, config.labels) == (output, ("Cat", "Dog"))
    assert (config.image_tag, config.image_field) == ("image", "image")
    assert (config.click_tag, config.box_tag) == ("click", "box")
    assert (config.text_tag is not None) is text
    assert bool(config.hints) is hints
    assert bool(config.waiting_labels) is hints
    if hints:
        assert {hint.positive for hint in config.hints} == {True, False}
        assert config.output_tag not in {hint.tag for hint in config.hints}


def tags(xml: str, *names: str) -> list[ElementTree.Element]:
    return [each for each in ElementTree.fromstring(xml).iter() if each.tag in names]


@pytest.mark.parametrize(("output", "text", "hints"), CHOICES)
def test_only_tools_that_ask_are_smart(output: Output, text: bool, hints: bool) -> None:
    xml = write_label_config(("Cat",), output, text=text, hints=hints)
    for tool in tags(xml, "KeyPointLabels", "RectangleLabels"):
        assert (tool.get("smart"), tool.get("smartOnly")) == ("true", "true")
    for tool in tags(xml, *OUTPUT_TAGS.values(), "EllipseLabels"):
        assert tool.get("smart") == "false"


@pytest.mark.parametrize(("output", "text", "hints"), CHOICES)
def test_names_are_used_once_and_smart_tools_come_first(
    output: Output, text: bool, hints: bool
) -> None:
    xml = write_label_config(("Cat",), output, text=text, hints=hints)
    names = [each.get("name") for each in ElementTree.fromstring(xml).iter() if each.get("name")]
    assert len(set(names)) == len(names)
    tools = [name for name in names if name in ("click", "box", "mask", "scribble")]
    if hints and output == "bitmask":  # E is the eraser of the last tag that has one
        assert tools == ["click", "box", "scribble", "mask"]
    else:
        assert tools[:3] == ["click", "box", "mask"]


# Label Studio's own: brush, eraser, pan, click, auto-detect, ellipse, polygon, box, unselect, move,
# zoom; R with Shift is the box of three points.
OF_TOOLS = {*"behkmopruv", "shift+1", "shift+2", "shift+r", "[", "]"}
GIVEN = "1234567890qwetasdfgzxcvbyiopjklnm"  # to labels without a key, those that are free


def keys_on_the_page(xml: str) -> list[tuple[str, str, str]]:
    """Tag, label and key of every label, as Label Studio hands them out."""
    rows = [
        [str(tool.get("name")), str(label.get("value")), str(label.get("hotkey") or "")]
        for tool in ElementTree.fromstring(xml).iter()
        for label in tool.findall("Label")
    ]
    for row in rows:
        taken = {each[2] for each in rows}
        row[2] = row[2] or next((key for key in GIVEN if key not in taken), "")
    return [(tool, label, key) for tool, label, key in rows]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 12, 13, 14, 15, 16, 25, 40, 60, MAX_LABELS])
@pytest.mark.parametrize("hints", [False, True])
@pytest.mark.parametrize("output", OUTPUTS)
def test_no_label_has_the_key_of_a_tool_or_of_another_label(
    output: Output, hints: bool, count: int
) -> None:
    xml = write_label_config([f"kind {n}" for n in range(count)], output, hints=hints)
    rows = keys_on_the_page(xml)
    keys = [key for _, _, key in rows if key != "\N{EN DASH}"]  # which no keyboard has
    assert len(set(keys)) == len(keys)
    assert not OF_TOOLS & set(keys)
    assert all(keys)
    assert [label for _, label, key in rows if key == "d"] == ["Use drawing"] * hints
    clicks = [key for tool, _, key in rows if tool == "click"]
    assert clicks[: min(count, 10)] == list("1234567890")[:count]
    drawn = [key for tool, _, key in rows if tool in ("scribble", "outline", "ellipse")]
    assert len(drawn) == 4 * hints
    assert "\N{EN DASH}" not in drawn


@pytest.mark.parametrize("output", OUTPUTS)
def test_two_labels_have_the_keys_that_are_documented(output: Output) -> None:
    rows = keys_on_the_page(write_label_config(("Cat", "Dog"), output))
    assert sorted(rows, key=lambda row: "1234567890d".index(row[2])) == [
        ("click", "Cat", "1"),
        ("click", "Dog", "2"),
        ("box", "Cat", "3"),
        ("box", "Dog", "4"),
        ("mask", "Cat", "5"),
        ("mask", "Dog", "6"),
        ("scribble", "On it", "7"),
        ("scribble", "Off it", "8"),
        ("outline", "Outline", "9"),
        ("ellipse", "Ellipse", "0"),
        ("click", "Use drawing", "d"),
    ]


def test_each_label_of_a_tag_has_a_colour_of_its_own_and_tags_agree() -> None:
    xml = write_label_config(tuple("abcdefgh"), hints=False)
    colours = [
        [label.get("background") for label in tool]
        for tool in tags(xml, "KeyPointLabels", "RectangleLabels", "BrushLabels")
    ]
    assert colours[0] == colours[1] == colours[2]
    assert len(set(colours[0])) == 8


def test_labels_keep_their_order_and_lose_the_space_around_them() -> None:
    labels = read_label_config(write_label_config(("  Zebra ", "Ant", "Mule"))).labels
    assert labels == ("Zebra", "Ant", "Mule")


AWKWARD = [
    'said "so"',
    "a < b > c",
    "this & that",
    "&amp;",
    "it's",
    "</Label><Label value='x'/>",
    "Käse 猫 🐈",
    "a, b",
    "On it",
    "$image",
    "]]>",
]


@pytest.mark.parametrize("label", AWKWARD)
def test_any_name_is_written_so_that_it_comes_back(label: str) -> None:
    for output in OUTPUTS:
        xml = write_label_config((label, "Other"), output, text=True)
        assert read_label_config(xml).labels == (label, "Other")
        assert len(tags(xml, "KeyPointLabels")) == 1  # K knows one such tool


def test_all_awkward_names_at_once() -> None:
    assert read_label_config(write_label_config(AWKWARD)).labels == tuple(AWKWARD)


@pytest.mark.parametrize(
    "labels",
    [
        (),
        ("",),
        ("Cat", " "),
        ("Cat", "Cat"),
        ("Cat", " Cat "),
        ("Cat", "\t\n"),
        tuple(map(str, range(MAX_LABELS + 1))),
    ],
    ids=["none", "blank", "spaces", "twice", "twice but for spaces", "white", "too many"],
)
def test_labels_that_cannot_be_are_refused_with_a_sentence(labels: Any) -> None:
    with pytest.raises(LabelConfigError, match=f"1 to {MAX_LABELS} different names") as caught:
        write_label_config(labels)
    assert str(caught.value).endswith(".")


def test_as_many_labels_as_may_be() -> None:
    labels = tuple(map(str, range(1, MAX_LABELS + 1)))
    assert read_label_config(write_label_config(labels)).labels == labels


def test_the_default_is_one_of_ours() -> None:
    assert read_label_config(default_label_config()).labels == ("Object", "Other")


printable = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8
).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(st.lists(printable, min_size=1, max_size=4, unique_by=str.strip), st.sampled_from(OUTPUTS))
def test_any_names_come_back(labels: list[str], output: Output) -> None:
    xml = write_label_config(labels, output, text=True)
    assert read_label_config(xml).labels == tuple(label.strip() for label in labels)


@pytest.mark.parametrize("label", ["\0", "a\x07b", "a\ud800"])
def test_characters_no_xml_can_hold_are_refused(label: str) -> None:
    with pytest.raises(LabelConfigError):
        write_label_config((label,))
