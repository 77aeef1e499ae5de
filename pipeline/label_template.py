"""Writes the labelling config a project needs: smart tools to ask with, a tag for the masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Literal
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from pipeline.errors import LabelConfigError

Output = Literal["brush", "polygon", "vector", "bitmask"]

# Tag of each kind of mask, and the key that picks its tool for drawing by hand.
OUTPUT_TAGS: dict[Output, str] = {
    "brush": "BrushLabels",
    "polygon": "PolygonLabels",
    "vector": "VectorLabels",
    "bitmask": "BitMaskLabels",
}
_HAND = {"brush": "Paint: B", "polygon": "Outline: P", "vector": "Path", "bitmask": "Paint"}
_COLOURS = ("#d1495b", "#2a9d8f", "#edae49", "#4f6d9a", "#8f5aa8", "#6a994e", "#e07a3f", "#3aa6c9")
MAX_LABELS = 200


def write_label_config(
    labels: Sequence[str], output: Output = "brush", *, text: bool = False, hints: bool = True
) -> str:
    """The XML of a labelling config.

    Smart tools are smartOnly, else a label's hotkey picks the tool that asks no model. Others are
    smart="false", because Label Studio offers every brush as a smart one and sends none of them.
    The smart tags come first, so that the digits nearest the hand choose them.

    Args:
        labels: that masks may carry.
        output: what the masks are.
        text: with a box to name the object in words, for models that know some.
        hints: with tools to draw hints for the model: scribbles, an outline, an ellipse.

    Raises:
        LabelConfigError: no label, too many, the same twice, or one that is blank.
    """
    names = [str(label).strip() for label in labels]
    if not names or not all(names) or len(set(names)) < len(names) or len(names) > MAX_LABELS:
        raise LabelConfigError(
            f"Labels must be 1 to {MAX_LABELS} different names; name each kind of object once."
        )
    smart = {"smart": "true", "smartOnly": "true"}
    view = Element("View")
    row = _row(view)
    _tool(row, "Click: K", "KeyPointLabels", "click", names, **smart, strokeWidth="6")
    _tool(row, "Box: R", "RectangleLabels", "box", names, **smart)
    _tool(row, _HAND[output], OUTPUT_TAGS[output], "mask", names, smart="false")
    if hints:
        row = _row(view)
        scribbles = _tool(row, "Draw hints", "BrushLabels", "scribble", (), smart="false")
        _label(scribbles, "On it", "#118ab2", model_hint="positive")
        _label(scribbles, "Off it", "#3d405b", model_hint="negative")
        outline = _tool(row, "", "PolygonLabels", "outline", (), smart="false")
        _label(outline, "Outline", "#118ab2", model_hint="positive")
        ellipse = _tool(row, "", "EllipseLabels", "ellipse", (), smart="false")
        _label(ellipse, "Ellipse", "#118ab2", model_hint="positive")
        waits = {**smart, "strokeWidth": "6", "model_waits": "true"}
        _tool(row, "then click it: K", "KeyPointLabels", "use", names, **waits)
    SubElement(
        view,
        "Image",
        name="image",
        value="$image",
        zoom="true",
        zoomControl="true",
        rotateControl="false",
    )
    if text:
        SubElement(
            view,
            "TextArea",
            name="text",
            toName="image",
            smart="true",
            maxSubmissions="1",
            editable="true",
            placeholder="Name the object in words and press Enter",
        )
    indent(view)
    return tostring(view, encoding="unicode") + "\n"


def _row(view: Element) -> Element:
    return SubElement(view, "View", style="display: flex; flex-wrap: wrap; column-gap: 24px")


def _tool(
    row: Element, title: str, tag: str, name: str, labels: Sequence[str], **attributes: str
) -> Element:
    cell = SubElement(row, "View", style="display: flex; align-items: center; gap: 8px")
    if title:
        SubElement(cell, "Header", size="6", value=title)
    tool = SubElement(cell, tag, {"name": name, "toName": "image", **attributes})
    for label, colour in zip(labels, cycle(_COLOURS), strict=False):
        _label(tool, label, colour)
    return tool


def _label(tool: Element, value: str, background: str, **attributes: str) -> None:
    SubElement(tool, "Label", {"value": value, "background": background, **attributes})


DEFAULT_LABEL_CONFIG = write_label_config(("Object", "Other"))
