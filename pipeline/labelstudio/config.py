"""Reads, with label-studio-sdk, what a project's labelling config offers maskloop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from label_studio_sdk.label_interface.interface import LabelInterface

from pipeline.errors import LabelConfigError
from pipeline.labelstudio.template import OUTPUT_TAGS, Output

MAX_CONFIG_CHARACTERS = 1_000_000


# Tags that can carry masks. Tags that hold every mask exactly come first in PREFERRED.
OUTPUTS: dict[str, Output] = {tag: output for output, tag in OUTPUT_TAGS.items()}
PREFERRED = ("BrushLabels", "BitMaskLabels", "PolygonLabels", "VectorLabels")


@dataclass(frozen=True, slots=True)
class Hint:
    """A label with ``model_hint``: regions drawn by hand with it are prompts and not masks."""

    tag: str
    label: str
    positive: bool


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """Names in a labelling config.

    Attributes:
        image_tag: the <Image> tag.
        image_field: the field of a task's data with the image's address.
        output_tag: the tag whose regions are the masks.
        output: the kind of these regions.
        labels: the labels that masks may have, in the config's order.
        click_tag, box_tag, text_tag: the smart tools; None: there is none.
        waiting_labels: labels of the click tag with ``model_waits="true"``. A click with one of
            them waits until Label Studio has saved what was drawn.
        hints: labels that mark a drawing as a prompt.
        notice_tag, notice_on: the read-only <TextArea> with ``model_notice="true"``, and the tag
            that it belongs to; None: there is none.
    """

    image_tag: str
    image_field: str
    output_tag: str
    output: Output
    labels: tuple[str, ...]
    click_tag: str | None
    box_tag: str | None
    text_tag: str | None = None
    waiting_labels: tuple[str, ...] = ()
    hints: tuple[Hint, ...] = ()
    notice_tag: str | None = None
    notice_on: str | None = None

    @property
    def hint_tags(self) -> frozenset[str]:
        """The tags of hints. Their regions are never masks, even if the labels have changed."""
        return frozenset(hint.tag for hint in self.hints)

    def hint(self, tag: Any, label: str | None) -> Hint | None:
        """The hint for regions of a tag with a label; None if these are not hints."""
        found = (hint for hint in self.hints if hint.tag == tag)
        return next((hint for hint in found if hint.label == label), None)


def read_label_config(xml: str) -> LabelConfig:
    """Find the image, the masks' tag and the prompts' tags of a labelling config.

    Raises:
        LabelConfigError: it is not a labelling config, or lacks an image, a tag for the masks, or
            a smart tool to prompt with.
    """
    if not isinstance(xml, str) or not xml.strip():
        raise LabelConfigError("The project has no labelling config; set one in its settings.")
    if len(xml) > MAX_CONFIG_CHARACTERS:
        raise LabelConfigError("The labelling config is too long to be one; shorten it.")
    return _read(xml)


def labels_in(xml: str) -> tuple[str, ...]:
    """Every label of a labelling config's tags, in its order, without hints and waiting labels.

    It is empty if the text is not a labelling config.
    """
    try:
        controls, _ = _parse(xml)
    except LabelConfigError:
        return ()
    names = (
        name
        for tag in controls
        if tag.tag.endswith("Labels")
        for name in tag.labels or ()
        if not {"model_hint", "model_waits"} & tag.labels_attrs[name].attr.keys()
    )
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=64)  # Label Studio sends the same text with every click
def _read(xml: str) -> LabelConfig:
    controls, objects = _parse(xml)
    images = {name: tag for name, tag in objects.items() if tag.tag == "Image"}
    if not images:
        raise LabelConfigError(
            'The labelling config has no <Image>; add <Image name="image" value="$image"/>.'
        )
    hints = {tag.name: _hints(tag) for tag in controls if tag.to_name[0] in images}
    outputs = [tag for tag in controls if tag.tag in OUTPUTS and tag.to_name[0] in images]
    outputs = [tag for tag in outputs if not hints[tag.name]]
    if not outputs:
        raise LabelConfigError(
            "The labelling config has no tag for the masks; add <BrushLabels>, <PolygonLabels>, "
            "<VectorLabels> or <BitMaskLabels> whose toName is the image and that carries your "
            "labels."
        )
    clicks = _smart(controls, "KeyPointLabels", images)
    boxes = _smart(controls, "RectangleLabels", images)
    texts = [tag for tag in controls if tag.tag == "TextArea" and tag.to_name[0] in images]
    texts = [tag for tag in texts if _is(tag, "smart")]
    asked = {label for tag in (*clicks[:1], *boxes[:1]) for label in tag.labels}
    # Of several tags, the one for masks has the prompts' labels and is not a smart tool.
    output = max(
        outputs,
        key=lambda tag: (
            _is(tag, "model_output"),
            bool(asked & set(tag.labels)),
            -PREFERRED.index(tag.tag),
            not _is(tag, "smart"),
            len(asked & set(tag.labels)),
        ),
    )
    if not output.labels:
        raise LabelConfigError(
            f'<{output.tag} name="{output.name}"> has no <Label>; add one for each kind of object.'
        )
    on_image = [tag for tag in (*clicks, *boxes, *texts) if tag.to_name[0] == output.to_name[0]]
    if not on_image:
        raise LabelConfigError(
            "The labelling config has no smart tool to prompt with; add <KeyPointLabels> with "
            f'smart="true" smartOnly="true" and the labels of <{output.tag} name="{output.name}">.'
        )
    notices = [tag for tag in controls if tag.tag == "TextArea" and _is(tag, "model_notice")]
    waiting = [
        name
        for tag in clicks
        for name in tag.labels
        if str(tag.labels_attrs[name].attr.get("model_waits")).lower() == "true"
    ]
    return LabelConfig(
        image_tag=output.to_name[0],
        image_field=_field(images[output.to_name[0]]),
        output_tag=output.name,
        output=OUTPUTS[output.tag],
        labels=tuple(output.labels),
        click_tag=_first(on_image, "KeyPointLabels"),
        box_tag=_first(on_image, "RectangleLabels"),
        text_tag=_first(on_image, "TextArea"),
        waiting_labels=tuple(waiting),
        hints=tuple(
            hint
            for tag in controls
            if tag.to_name[0] == output.to_name[0]
            for hint in hints[tag.name]
        ),
        notice_tag=notices[0].name if notices else None,
        notice_on=notices[0].to_name[0] if notices else None,
    )


def _hints(tag: Any) -> list[Hint]:
    """The labels of a tag that carry ``model_hint``.

    Raises:
        LabelConfigError: a value is neither "positive" nor "negative", or only some labels of the
            tag have one.
    """
    found = []
    for name in tag.labels or ():
        said = tag.labels_attrs[name].attr.get("model_hint")
        if said is not None and said not in ("positive", "negative"):
            raise LabelConfigError(
                f'The label {name!r} of <{tag.tag} name="{tag.name}"> has '
                f'model_hint="{said}"; write "positive" or "negative".'
            )
        if said is not None:
            found.append(Hint(str(tag.name), name, said == "positive"))
    if found and len(found) < len(tag.labels):
        raise LabelConfigError(
            f'<{tag.tag} name="{tag.name}"> has labels with model_hint and labels without; give '
            "the hints a tag of their own."
        )
    return found


def _parse(xml: str) -> tuple[list[Any], dict[str, Any]]:
    """Control tags in the config's order, and object tags by name."""
    try:
        interface = LabelInterface(xml)
        return list(interface.controls), {tag.name: tag for tag in interface.objects}
    except Exception as error:  # The SDK's XML, schema and tag code raises many kinds.
        raise LabelConfigError(
            f"The labelling config cannot be read ({type(error).__name__}); "
            "correct it in the project's settings."
        ) from None


def _smart(controls: list[Any], kind: str, images: dict[str, Any]) -> list[Any]:
    return [
        tag
        for tag in controls
        if tag.tag == kind and _is(tag, "smart") and tag.to_name[0] in images
    ]


def _is(tag: Any, attribute: str) -> bool:
    return str(tag.attr.get(attribute, "false")).lower() == "true"


def _first(tags: list[Any], kind: str) -> str | None:
    return next((str(tag.name) for tag in tags if tag.tag == kind), None)


def _field(image: Any) -> str:
    value = str(image.attr.get("value") or image.value or "")
    if not value.startswith("$") or len(value) == 1:
        raise LabelConfigError(
            f'The <Image name="{image.name}"> shows no field of the task; give it value="$image".'
        )
    return value[1:]
