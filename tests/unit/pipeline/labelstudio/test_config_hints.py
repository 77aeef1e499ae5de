"""What labelling configs say of hints, of clicks that wait, and of the tag for the masks."""

from __future__ import annotations

import pytest

from pipeline.errors import LabelConfigError
from pipeline.labelstudio.config import Hint, read_label_config

IMAGE = '<Image name="img" value="$photo"/>'
LABELS = '<Label value="Cat"/><Label value="Dog"/>'
SIGNS = '<Label value="On" model_hint="positive"/><Label value="Off" model_hint="negative"/>'
CLICK = f'<KeyPointLabels name="click" toName="img" smart="true">{LABELS}</KeyPointLabels>'
OUTPUTS = {
    "BrushLabels": "brush",
    "PolygonLabels": "polygon",
    "VectorLabels": "vector",
    "BitMaskLabels": "bitmask",
}


def tag(kind: str, name: str, labels: str = LABELS, **attributes: str) -> str:
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<{kind} name="{name}" toName="img"{more}>{labels}</{kind}>'


def view(*tags: str) -> str:
    return f"<View>{IMAGE}{''.join(tags)}</View>"


def label(value: str, **attributes: str) -> str:
    more = "".join(f' {key}="{text}"' for key, text in attributes.items())
    return f'<Label value="{value}"{more}/>'


MASK = tag("BrushLabels", "mask")


# --- the tag for the masks ---


@pytest.mark.parametrize(("kind", "output"), OUTPUTS.items())
def test_masks_may_be_of_four_kinds(kind: str, output: str) -> None:
    config = read_label_config(view(tag(kind, "made"), CLICK))
    assert (config.output_tag, config.output) == ("made", output)
    assert config.labels == ("Cat", "Dog")
    assert config.image_tag == "img"


@pytest.mark.parametrize("kind", ["EllipseLabels", "RectangleLabels", "Labels"])
def test_masks_are_of_no_other_kind(kind: str) -> None:
    with pytest.raises(LabelConfigError, match="tag for the masks"):
        read_label_config(view(tag(kind, "made"), CLICK))


def test_of_several_the_one_that_holds_every_mask_is_taken() -> None:
    every = [tag(kind, kind.lower()) for kind in OUTPUTS]
    for order in (every, every[::-1]):
        assert read_label_config(view(*order, CLICK)).output == "brush"
        assert read_label_config(view(*order[1:3], CLICK)).output_tag != "brushlabels"
    without_brush = [tag(kind, kind.lower()) for kind in OUTPUTS if kind != "BrushLabels"]
    assert read_label_config(view(*without_brush, CLICK)).output == "bitmask"
    outlines = [tag(kind, kind.lower()) for kind in ("VectorLabels", "PolygonLabels")]
    assert read_label_config(view(*outlines, CLICK)).output == "polygon"


@pytest.mark.parametrize("kind", ["PolygonLabels", "VectorLabels", "BitMaskLabels"])
def test_the_config_may_say_which(kind: str) -> None:
    chosen = tag(kind, "chosen", model_output="true")
    for order in ((MASK, chosen), (chosen, MASK)):
        config = read_label_config(view(*order, CLICK))
        assert (config.output_tag, config.output) == ("chosen", OUTPUTS[kind])
    refused = tag(kind, "chosen", model_output="false")
    assert read_label_config(view(refused, MASK, CLICK)).output_tag == "mask"


def test_the_tag_that_knows_the_clicks_labels_goes_before_a_better_kind() -> None:
    other = tag("BrushLabels", "other", label("Water") + label("Sky"))
    outline = tag("PolygonLabels", "outline")
    assert read_label_config(view(other, outline, CLICK)).output_tag == "outline"
    assert read_label_config(view(outline, other, CLICK)).output_tag == "outline"


def test_of_two_alike_the_one_with_more_of_the_labels_and_no_smart_tool() -> None:
    fewer = tag("BrushLabels", "fewer", label("Cat"))
    assert read_label_config(view(fewer, MASK, CLICK)).output_tag == "mask"
    smart = tag("BrushLabels", "smart", smart="true")
    assert read_label_config(view(smart, MASK, CLICK)).output_tag == "mask"
    assert read_label_config(view(smart, CLICK)).output_tag == "smart"  # better than none


# --- hints ---


@pytest.mark.parametrize(
    "kind",
    [
        *OUTPUTS,
        "EllipseLabels",
        "RectangleLabels",
        "KeyPointLabels",
    ],
)
def test_labels_of_every_tool_may_be_hints(kind: str) -> None:
    config = read_label_config(view(tag(kind, "hint", SIGNS), MASK, CLICK))
    assert config.hints == (Hint("hint", "On", True), Hint("hint", "Off", False))
    assert config.output_tag == "mask"
    assert config.hint("hint", "On") == Hint("hint", "On", True)
    assert config.hint("hint", "Off") == Hint("hint", "Off", False)


def test_what_is_no_hint() -> None:
    config = read_label_config(view(tag("BrushLabels", "hint", SIGNS), MASK, CLICK))
    assert config.hint("hint", "Cat") is None
    assert config.hint("hint", None) is None
    assert config.hint("mask", "On") is None
    assert config.hint(None, "On") is None
    assert config.hint({"a": 1}, "On") is None
    assert read_label_config(view(MASK, CLICK)).hints == ()


def test_hints_of_several_tags_are_told_apart() -> None:
    on, off = label("Same", model_hint="positive"), label("Same", model_hint="negative")
    config = read_label_config(
        view(tag("PolygonLabels", "a", on), tag("PolygonLabels", "b", off), MASK, CLICK)
    )
    assert config.hint("a", "Same") == Hint("a", "Same", True)
    assert config.hint("b", "Same") == Hint("b", "Same", False)


def test_a_hint_is_never_the_masks_tag() -> None:
    asked = tag("BrushLabels", "hint", SIGNS, model_output="true")
    assert read_label_config(view(asked, MASK, CLICK)).output_tag == "mask"
    with pytest.raises(LabelConfigError, match="tag for the masks"):
        read_label_config(view(asked, CLICK))


@pytest.mark.parametrize("value", ["", "yes", "true", "Positive", "positive ", "+", "-1"])
def test_a_hint_is_positive_or_negative(value: str) -> None:
    hint = tag("BrushLabels", "hint", label("On", model_hint=value))
    with pytest.raises(LabelConfigError, match="write .positive. or .negative.") as caught:
        read_label_config(view(hint, MASK, CLICK))
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "'On'" in sentence
    assert '<BrushLabels name="hint">' in sentence


def test_hints_and_masks_do_not_share_a_tag() -> None:
    mixed = tag("BrushLabels", "mask", LABELS + label("On", model_hint="positive"))
    with pytest.raises(LabelConfigError, match="a tag of their own") as caught:
        read_label_config(view(mixed, CLICK))
    assert str(caught.value).endswith(".")


def test_what_an_error_says_of_a_config_it_says_again() -> None:
    bad = view(tag("BrushLabels", "hint", label("On", model_hint="x")), MASK, CLICK)
    for _ in range(2):  # what is read is remembered; what is refused is not
        with pytest.raises(LabelConfigError, match="model_hint"):
            read_label_config(bad)


# --- clicks that wait for drawings, and words ---


def waiting(**attributes: str) -> str:
    """A click tag with a label of its own beside the masks'."""
    return tag("KeyPointLabels", "use", f"{LABELS}{label('Drawn', **attributes)}", smart="true")


def test_a_click_that_waits_is_a_label_of_the_click_tag() -> None:
    config = read_label_config(view(MASK, waiting(model_waits="true")))
    assert config.waiting_labels == ("Drawn",)
    assert config.click_tag == "use"


@pytest.mark.parametrize("said", [None, "false", "soon", ""])
def test_other_clicks_do_not_wait(said: str | None) -> None:
    attributes = {} if said is None else {"model_waits": said}
    assert read_label_config(view(MASK, waiting(**attributes))).waiting_labels == ()


def test_what_is_no_smart_tool_never_waits() -> None:
    plain = waiting(model_waits="true").replace('smart="true"', 'smart="false"')
    assert read_label_config(view(MASK, CLICK, plain)).waiting_labels == ()


def test_only_a_smart_text_box_on_the_image_asks() -> None:
    def text(**attributes: str) -> str:
        return tag("TextArea", "words", "", **attributes)

    assert read_label_config(view(MASK, CLICK, text(smart="true"))).text_tag == "words"
    assert read_label_config(view(MASK, text(smart="true"))).text_tag == "words"  # it is enough
    assert read_label_config(view(MASK, CLICK, text())).text_tag is None
    note = '<Text name="note" value="$note"/><TextArea name="words" toName="note" smart="true"/>'
    assert read_label_config(view(MASK, CLICK, note)).text_tag is None


def test_truth_may_be_written_in_capitals() -> None:
    click = waiting(model_waits="True").replace('"true"', '"TRUE"')
    config = read_label_config(view(MASK, click))
    assert (config.click_tag, config.waiting_labels) == ("use", ("Drawn",))
