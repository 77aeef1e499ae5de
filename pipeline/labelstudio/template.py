"""Writes the labelling config a project needs: smart tools to ask with, a tag for the masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Literal
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, indent, tostring

from pipeline.errors import LabelConfigError

Output = Literal["brush", "polygon", "vector", "bitmask"]

# Tag of each kind of mask, and its title, with the key that picks its tool for drawing by hand. Of
# two brushes B picks the last, which is the scribbles'; the labels' own keys pick theirs.
OUTPUT_TAGS: dict[Output, str] = {
    "brush": "BrushLabels",
    "polygon": "PolygonLabels",
    "vector": "VectorLabels",
    "bitmask": "BitMaskLabels",
}
_HAND = {"brush": "Paint", "polygon": "Outline: P", "vector": "Path", "bitmask": "Paint: B"}
_COLOURS = ("#d1495b", "#2a9d8f", "#edae49", "#4f6d9a", "#8f5aa8", "#6a994e", "#e07a3f", "#3aa6c9")
MAX_LABELS = 200
# Keys of labels: all but those of Label Studio's own tools (B E H K M O P R U V, shift+1, shift+2,
# shift+R) and D, which is "Use drawing".
_FREE = (*"1234567890qwtasfgzxcyinjl", *(f"shift+{key}" for key in "qwetasfgzxcyionjl34567890"))
# What a label has for a key when there are none left. Left to itself Label Studio would give it one
# of a tool, K or B, which is dead from then on; no keyboard has a key of this code.
_NO_KEY = "\N{EN DASH}"
USE_DRAWING = "Use drawing"
_STYLE = (
    ".maskloop-notice {{ min-height: {height}px; }} "
    '.maskloop-notice [data-testid="htx-textbox-actions"] {{ display: none; }} '
    ".maskloop-notice p {{ color: #9c2f00; font-weight: 600; }} h6 {{ white-space: nowrap; }}"
)
# A page of its own, without rights in Label Studio's: it asks, and shows what is said. Nothing of
# the task goes in here: whoever imports tasks could make it do something else.
_LIVE = (
    '<iframe title="maskloop" sandbox="allow-scripts" '
    'style="border: 0; width: 100%; height: 22px" srcdoc="'
    "<body style='margin: 0; font: 600 14px sans-serif; color: #9c2f00'>"
    "<div id='notice' role='status'></div><script>"
    "function show(text) { document.getElementById('notice').textContent = text; "
    "setTimeout(ask, 2000) } "
    "function ask() { fetch('ADDRESS', {cache: 'no-store'}).then(function (r) { return r.json() })"
    ".then(function (answer) { show(answer.text) }, "
    "function () { show('The model is unavailable. Your drawing is safe.') }) } "
    'ask()</script>"></iframe>'
)


def write_label_config(
    labels: Sequence[str],
    output: Output = "brush",
    *,
    text: bool = False,
    hints: bool = True,
    live: str = "",
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
        live: address the page asks every few seconds what to tell the annotator, as browsers reach
            it; empty: none.

    Raises:
        LabelConfigError: no label, too many, the same twice, or one that is blank.
    """
    names = [str(label).strip() for label in labels]
    if not 0 < len(names) <= MAX_LABELS or not all(names) or len(set(names)) < len(names):
        raise LabelConfigError(
            f"Labels must be 1 to {MAX_LABELS} different names; name each kind of object once."
        )
    smart = {"smart": "true", "smartOnly": "true"}
    if hints and USE_DRAWING in names:
        raise LabelConfigError(
            f"{USE_DRAWING!r} is what clicks that read a drawing are called; name the label "
            "otherwise."
        )
    keys, hint_keys = _keys(3 * len(names), 4 * hints)
    view = Element("View")
    _notice(view, live)
    row = _row(view)
    click = _tool(row, "Click: K", "KeyPointLabels", "click", names, keys, **smart, strokeWidth="6")
    if hints:  # of two click tags, K would know the last only
        _label(click, USE_DRAWING, "#118ab2", hotkey="d", model_waits="true")
    _tool(row, "Box: R", "RectangleLabels", "box", names, keys, **smart)
    row = _row(view)
    closes = {"closable": "true"} if output == "vector" else {}  # else paths are left open
    if hints and output == "bitmask":  # before the masks: E and B go to the last tag that has them
        _hints(row, hint_keys)
    _tool(row, _HAND[output], OUTPUT_TAGS[output], "mask", names, keys, smart="false", **closes)
    if hints and output != "bitmask":
        _hints(row, hint_keys)
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
    about = SubElement(view, "View", style="display: none")  # behind the image: tools ask the first
    SubElement(about, "Text", name="about", value="$image")
    indent(view)
    xml = tostring(view, encoding="unicode")  # Label Studio would cut a line's end off
    try:
        fromstring(xml)
    except (ParseError, UnicodeError):
        raise LabelConfigError(
            "A label has a character that no labelling config can hold; leave it out."
        ) from None
    return xml


def _notice(view: Element, live: str) -> None:
    """Where the annotator is told what goes on; room is kept, so that the image does not move.

    Label Studio shows a <TextArea> whose ``visibleWhen`` never holds, and saves nothing of it. It
    belongs to a hidden <Text>: a notice on the image would carry the chosen label along.
    """
    SubElement(view, "Style").text = _STYLE.format(height=80 if live else 52)
    place = SubElement(view, "View", className="maskloop-notice")
    notice = {"editable": "false", "maxSubmissions": "0", "model_notice": "true"}
    hidden = {"visibleWhen": "choice-selected", "whenTagName": "never"}
    SubElement(place, "TextArea", {"name": "notice", "toName": "about", **notice, **hidden})
    if live:
        SubElement(place, "Markdown", value=_LIVE.replace("ADDRESS", quote(live, safe=":/?=&.")))


def _row(view: Element) -> Element:
    return SubElement(view, "View", style="display: flex; flex-wrap: wrap; column-gap: 16px")


def _keys(labels: int, hints: int) -> tuple[Iterator[str], Iterator[str]]:
    """Keys of the labels of click, box and masks, in this order, and of the hints. When there are
    too few, the hints have theirs all the same: they are needed whatever is labelled."""
    free = min(labels, len(_FREE) - hints)
    own = [*_FREE[:free], *[_NO_KEY] * (labels - free)]
    return iter(own), iter(_FREE[free : free + hints])


def _hints(row: Element, keys: Iterator[str]) -> None:
    scribbles = _tool(row, "Hint: K D", "BrushLabels", "scribble", smart="false")
    _label(scribbles, "On it", "#118ab2", hotkey=next(keys), model_hint="positive")
    _label(scribbles, "Off it", "#3d405b", hotkey=next(keys), model_hint="negative")
    outline = _tool(row, "", "PolygonLabels", "outline", smart="false")
    _label(outline, "Outline", "#118ab2", hotkey=next(keys), model_hint="positive")
    ellipse = _tool(row, "", "EllipseLabels", "ellipse", smart="false")
    _label(ellipse, "Ellipse", "#118ab2", hotkey=next(keys), model_hint="positive")


def _tool(
    row: Element,
    title: str,
    tag: str,
    name: str,
    labels: Sequence[str] = (),
    keys: Iterator[str] | None = None,
    **attributes: str,
) -> Element:
    cell = SubElement(row, "View", style="display: flex; align-items: center; gap: 8px")
    if title:
        SubElement(cell, "Header", size="6", value=title)
    tool = SubElement(cell, tag, {"name": name, "toName": "image", **attributes})
    for label, colour in zip(labels, cycle(_COLOURS), strict=False):
        _label(tool, label, colour, hotkey=next(keys) if keys else "")
    return tool


def _label(tool: Element, value: str, background: str, **attributes: str) -> None:
    said = {key: text for key, text in attributes.items() if text}
    SubElement(tool, "Label", {"value": value, "background": background, **said})


DEFAULT_LABEL_CONFIG = write_label_config(("Object", "Other"))
