"""What connect advises about labelling configs that can be read, and give nobody a mask."""

from __future__ import annotations

from typing import get_args

import pytest

from pipeline.labelstudio.config import read_label_config
from pipeline.labelstudio.connect import advise
from pipeline.labelstudio.template import Output, write_label_config


def told(xml: str) -> tuple[str, ...]:
    return advise(7, xml, read_label_config(xml))


def changed(old: str, new: str, labels: tuple[str, ...] = ("Cat", "Dog")) -> tuple[str, ...]:
    """Of a template in which the labels of one tag are others."""
    xml = write_label_config(labels, hints=True)
    before, tag, rest = xml.partition(old)
    inside, end, after = rest.partition("</")
    assert tag and any(label in inside for label in labels)
    for label, other in zip(labels, new.split("|"), strict=True):
        inside = inside.replace(f'"{label}"', f'"{other}"')
    return told(before + tag + inside + end + after)


@pytest.mark.parametrize("output", get_args(Output))
def test_of_a_template_nothing(output: Output) -> None:
    assert told(write_label_config(("Cat", "cat food"), output)) == ()
    assert told(write_label_config(("Cat", "cat"), output)) == ()


@pytest.mark.parametrize("tag", ["KeyPointLabels", "RectangleLabels"])
@pytest.mark.parametrize("other", ["cat", "CAT", "C at"])
def test_a_label_that_is_only_spelled_otherwise(tag: str, other: str) -> None:
    (said,) = changed(f"<{tag} ", f"{other}|Dog")
    assert said.startswith(f'<{tag} name="')
    assert f"says {other!r} for 'Cat'" in said
    assert 'than those of <BrushLabels name="mask">' in said
    assert said.endswith("; write them alike.")


@pytest.mark.parametrize("tag", ["KeyPointLabels", "RectangleLabels"])
def test_a_tool_that_has_no_label_of_the_masks(tag: str) -> None:
    (said,) = changed(f"<{tag} ", "Owl|Background")
    assert "shares no label with <BrushLabels" in said
    assert said.endswith("gets no mask; give both the same labels.")


def test_a_label_that_takes_away_is_no_fault() -> None:
    assert changed("<KeyPointLabels ", "Cat|Background") == ()


def test_one_label_of_several_that_is_spelled_otherwise() -> None:
    (said,) = changed("<KeyPointLabels ", "Cat|dog")
    assert "says 'dog' for 'Dog'," in said


@pytest.mark.parametrize("closable", ["", 'closable="false" '])
def test_paths_that_stay_open(closable: str) -> None:
    whole = write_label_config(("Cat",), "vector")
    assert 'closable="true"' in whole
    (said,) = told(whole.replace('closable="true"', closable))
    assert '<VectorLabels name="mask"> has no closable="true"' in said
    assert said.endswith("; add it to the tag.")


def test_open_paths_beside_the_masks_are_no_fault() -> None:
    roads = '<VectorLabels name="road" toName="image"><Label value="Road"/></VectorLabels>'
    xml = write_label_config(("Cat",)).replace("<BrushLabels ", f"{roads}<BrushLabels ", 1)
    assert told(xml) == ()
