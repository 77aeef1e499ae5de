"""Writes the labelling config that a project needs: smart tools for prompts, a tag for masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Literal
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, indent, tostring

from pipeline.errors import LabelConfigError

Output = Literal["brush", "polygon", "vector", "bitmask"]

# The tag of each kind of mask. Below it, its title, with the key that selects its tool for drawing
# by hand. With two brushes, B would select the last one, which is that of the scribbles; the keys
# of the labels select the right one.
OUTPUT_TAGS: dict[Output, str] = {
    "brush": "BrushLabels",
    "polygon": "PolygonLabels",
    "vector": "VectorLabels",
    "bitmask": "BitMaskLabels",
}
_HAND = {"brush": "Paint", "polygon": "Outline: P", "vector": "Path", "bitmask": "Paint: B"}
_COLOURS = ("#d1495b", "#2a9d8f", "#edae49", "#4f6d9a", "#8f5aa8", "#6a994e", "#e07a3f", "#3aa6c9")
MAX_LABELS = 200
DEFAULT_LABELS = ("Object", "Other")
# Keys for labels: all except those of Label Studio's own tools (B E H K M O P R U V, shift+1,
# shift+2, shift+R) and D, which is the key of "Use drawing".
_FREE = (*"1234567890qwtasfgzxcyinjl", *(f"shift+{key}" for key in "qwetasfgzxcyionjl34567890"))
# The key of a label when no key is left. Without one, Label Studio would give the label the key of
# a tool, K or B, and that key would stop working. No keyboard has a key with this code.
_NO_KEY = "\N{EN DASH}"
USE_DRAWING = "Use drawing"
_NOTICE_HEIGHT, _LIVE_NOTICE_HEIGHT = (
    52,
    80,
)  # pixels: without and with the line that fetches itself
_STYLE = (
    ".maskloop-notice {{ min-height: {height}px; }} "
    '.maskloop-notice [data-testid="htx-textbox-actions"] {{ display: none; }} '
    ".maskloop-notice p {{ color: #9c2f00; font-weight: 600; }} h6 {{ white-space: nowrap; }}"
)
# A page of its own, without rights in Label Studio's page. It fetches the notice and shows it. No
# text of the task goes into it, because a person who imports tasks could then inject a script.
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

    Smart tools have smartOnly="true", because a label's hotkey would otherwise select the tool that
    does not ask the model. Other tools have smart="false", because Label Studio offers every brush
    as a smart tool but never sends what it drew. The smart tags come first, so that they get the
    first digits as keys.

    Args:
        labels: the labels that masks may have.
        output: the kind of regions that masks are.
        text: whether to add a box to name the object in words, for models that know words.
        hints: whether to add tools to draw hints for the model: scribbles, an outline, an ellipse.
        live: address of the notice for browsers, which the page fetches every two seconds; empty:
            no live notice.

    Raises:
        LabelConfigError: there are no labels or too many, or a label is blank, given twice, the
            same as ``USE_DRAWING``, or not possible in XML.
    """
    names = [str(label).strip() for label in labels]
    if not 0 < len(names) <= MAX_LABELS or not all(names) or len(set(names)) < len(names):
        raise LabelConfigError(
            f"Labels must be 1 to {MAX_LABELS} different names; name each kind of object once."
        )
    smart = {"smart": "true", "smartOnly": "true"}
    if hints and USE_DRAWING in names:
        raise LabelConfigError(
            f"{USE_DRAWING!r} is the label of clicks that read a drawing; give your label another "
            "name."
        )
    keys, hint_keys = _keys(3 * len(names), 4 * hints)
    view = Element("View")
    _notice(view, live)
    row = _row(view)
    click = _tool(row, "Click: K", "KeyPointLabels", "click", names, keys, **smart, strokeWidth="6")
    if hints:  # This is no second click tag, because K would then select only that one.
        _label(click, USE_DRAWING, "#118ab2", hotkey="d", model_waits="true")
    _tool(row, "Box: R", "RectangleLabels", "box", names, keys, **smart)
    row = _row(view)
    closes = {"closable": "true"} if output == "vector" else {}  # Otherwise paths stay open.
    # E and B belong to the last tag that has them, so the masks of this kind come after the hints.
    if hints and output == "bitmask":
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
    # Tools use the first object tag, so this one comes after the image.
    about = SubElement(view, "View", style="display: none")
    SubElement(about, "Text", name="about", value="$image")
    indent(view)
    xml = tostring(view, encoding="unicode")  # No line end: Label Studio would cut it off.
    try:
        fromstring(xml)
    except (ParseError, UnicodeError):
        raise LabelConfigError(
            "A label has a character that no labelling config can hold; remove it."
        ) from None
    return xml


def _notice(view: Element, live: str) -> None:
    """Add the place for messages to the annotator. Its height is fixed, so the image never moves.

    Label Studio shows a <TextArea> whose ``visibleWhen`` is never true, but does not save it. The
    <TextArea> belongs to a hidden <Text>, because a notice on the image would get the chosen label.
    """
    height = _LIVE_NOTICE_HEIGHT if live else _NOTICE_HEIGHT
    SubElement(view, "Style").text = _STYLE.format(height=height)
    place = SubElement(view, "View", className="maskloop-notice")
    notice = {"editable": "false", "maxSubmissions": "0", "model_notice": "true"}
    hidden = {"visibleWhen": "choice-selected", "whenTagName": "never"}
    SubElement(place, "TextArea", {"name": "notice", "toName": "about", **notice, **hidden})
    if live:
        SubElement(place, "Markdown", value=_LIVE.replace("ADDRESS", quote(live, safe=":/?=&.")))


def _row(view: Element) -> Element:
    return SubElement(view, "View", style="display: flex; flex-wrap: wrap; column-gap: 16px")


def _keys(labels: int, hints: int) -> tuple[Iterator[str], Iterator[str]]:
    """Keys of the labels of clicks, boxes and masks, in this order, and keys of the hints.

    When there are too few keys, the hints still get theirs, because every object may need them.
    """
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


def default_label_config() -> str:
    """The labelling config of a project that has no labels of its own yet, such as the demo."""
    return write_label_config(DEFAULT_LABELS)
