"""Labelling configs, whole and with each part missing."""

from __future__ import annotations

import pytest

from pipeline.errors import LabelConfigError
from pipeline.labelstudio.config import Hint, LabelConfig, read_label_config
from pipeline.labelstudio.template import default_label_config

IMAGE = '<Image name="img" value="$photo"/>'
LABELS = '<Label value="Cat"/><Label value="Dog"/>'
BRUSH = f'<BrushLabels name="mask" toName="img">{LABELS}</BrushLabels>'
CLICK = f'<KeyPointLabels name="click" toName="img" smart="true">{LABELS}</KeyPointLabels>'


def view(*tags: str) -> str:
    return f"<View>{''.join(tags)}</View>"


def test_the_default_is_complete() -> None:
    assert read_label_config(default_label_config()) == LabelConfig(
        image_tag="image",
        image_field="image",
        output_tag="mask",
        output="brush",
        click_tag="click",
        box_tag="box",
        labels=("Object", "Other"),
        waiting_labels=("Use drawing",),
        hints=(
            Hint("scribble", "On it", True),
            Hint("scribble", "Off it", False),
            Hint("outline", "Outline", True),
            Hint("ellipse", "Ellipse", True),
        ),
        notice_tag="notice",
        notice_on="about",
    )


def test_names_are_read_not_assumed() -> None:
    config = read_label_config(view(IMAGE, BRUSH, CLICK))
    assert (config.image_field, config.image_tag, config.box_tag) == ("photo", "img", None)
    assert config.labels == ("Cat", "Dog")


def test_a_scribble_brush_before_the_masks_brush_is_not_taken_for_it() -> None:
    scribble = '<BrushLabels name="s" toName="img" smart="{}"><Label value="+"/></BrushLabels>'
    for smart in ("true", "false"):
        config = read_label_config(view(IMAGE, scribble.format(smart), BRUSH, CLICK))
        assert config.output_tag == "mask"


@pytest.mark.parametrize(
    ("xml", "missing"),
    [
        ("", "labelling config"),
        ("<Vi", "cannot be read"),
        ("no xml at all", "cannot be read"),
        (view(), "<Image"),
        (view(IMAGE), "tag for the masks"),
        (view(IMAGE, BRUSH), "smart tool"),
        (view(IMAGE, BRUSH, CLICK.replace("true", "false")), "smart tool"),
        (view(IMAGE, BRUSH.replace(LABELS, ""), CLICK), "<Label>"),
        (view('<Image name="img" value="http://x/y.png"/>', BRUSH, CLICK), "value="),
        ("x" * 2_000_000, "too long"),
    ],
)
def test_what_is_missing_is_named(xml: str, missing: str) -> None:
    with pytest.raises(LabelConfigError, match=missing):
        read_label_config(xml)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(LabelConfigError):
        read_label_config(["<View/>"])  # type: ignore[arg-type]
