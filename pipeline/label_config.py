"""What a project's labelling config offers maskloop, read with label-studio-sdk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from label_studio_sdk.label_interface.interface import LabelInterface

from pipeline.errors import LabelConfigError

# Smart tools are smartOnly, else a label's hotkey picks the tool that asks no model. Brush tags are
# smart="false", because Label Studio offers every brush as a smart one and sends none of them.
# The smart tags come first, so that the digits nearest the hand choose them.
DEFAULT_LABEL_CONFIG = """\
<View>
  <View style="display: flex; flex-wrap: wrap; column-gap: 32px">
    <View style="display: flex; align-items: center; gap: 8px">
      <Header size="6" value="Click: K"/>
      <KeyPointLabels name="click" toName="image" smart="true" smartOnly="true" strokeWidth="6">
        <Label value="Object" background="#d1495b"/>
        <Label value="Other" background="#2a9d8f"/>
      </KeyPointLabels>
    </View>
    <View style="display: flex; align-items: center; gap: 8px">
      <Header size="6" value="Box: R"/>
      <RectangleLabels name="box" toName="image" smart="true" smartOnly="true">
        <Label value="Object" background="#d1495b"/>
        <Label value="Other" background="#2a9d8f"/>
      </RectangleLabels>
    </View>
    <View style="display: flex; align-items: center; gap: 8px">
      <Header size="6" value="Paint: B"/>
      <BrushLabels name="mask" toName="image" smart="false">
        <Label value="Object" background="#d1495b"/>
        <Label value="Other" background="#2a9d8f"/>
      </BrushLabels>
    </View>
  </View>
  <Image name="image" value="$image" zoom="true" zoomControl="true" rotateControl="false"/>
</View>
"""
MAX_CONFIG_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """Names in a labelling config; ``labels`` are those masks may carry, in the config's order."""

    image_tag: str
    image_field: str  # of a task's data
    brush_tag: str
    click_tag: str | None
    box_tag: str | None
    labels: tuple[str, ...]


def read_label_config(xml: str) -> LabelConfig:
    """Find the image, the masks' tag and the prompts' tags of a labelling config.

    Raises:
        LabelConfigError: it is not a labelling config, or lacks an image, a brush for the masks,
            or a smart tool to prompt with.
    """
    if not isinstance(xml, str) or not xml.strip():
        raise LabelConfigError("The project has no labelling config; set one in its settings.")
    if len(xml) > MAX_CONFIG_CHARACTERS:
        raise LabelConfigError("The labelling config is too long to be one; shorten it.")
    return _read(xml)


@lru_cache(maxsize=64)  # Label Studio sends the same text with every click
def _read(xml: str) -> LabelConfig:
    controls, objects = _parse(xml)
    images = {name: tag for name, tag in objects.items() if tag.tag == "Image"}
    if not images:
        raise LabelConfigError(
            'The labelling config has no <Image>; add <Image name="image" value="$image"/>.'
        )
    brushes = [tag for tag in controls if tag.tag == "BrushLabels" and tag.to_name[0] in images]
    if not brushes:
        raise LabelConfigError(
            "The labelling config has no <BrushLabels> for the masks; add one whose toName is the "
            "image and that carries your labels."
        )
    clicks = _smart(controls, "KeyPointLabels", images)
    boxes = _smart(controls, "RectangleLabels", images)
    asked = {label for tag in (*clicks[:1], *boxes[:1]) for label in tag.labels}
    # Of several brushes, the masks' is the one that is no smart tool and knows the prompts' labels.
    brush = max(brushes, key=lambda tag: (not _is(tag, "smart"), len(asked & set(tag.labels))))
    if not brush.labels:
        raise LabelConfigError(
            f'<BrushLabels name="{brush.name}"> has no <Label>; add one for each kind of object.'
        )
    prompts = [tag for tag in (*clicks, *boxes) if tag.to_name[0] == brush.to_name[0]]
    if not prompts:
        raise LabelConfigError(
            "The labelling config has no smart tool to prompt with; add <KeyPointLabels> with "
            'smart="true" smartOnly="true" and the labels of the brush.'
        )
    return LabelConfig(
        image_tag=brush.to_name[0],
        image_field=_field(images[brush.to_name[0]]),
        brush_tag=brush.name,
        click_tag=_first(prompts, "KeyPointLabels"),
        box_tag=_first(prompts, "RectangleLabels"),
        labels=tuple(brush.labels),
    )


def _parse(xml: str) -> tuple[list[Any], dict[str, Any]]:
    """Control tags in the config's order, and object tags by name."""
    try:
        interface = LabelInterface(xml)
        return list(interface.controls), {tag.name: tag for tag in interface.objects}
    except Exception as error:  # the SDK raises what its XML, schema and tag code happen to raise
        raise LabelConfigError(
            f"The labelling config cannot be read ({type(error).__name__}); "
            "mend it in the project's settings."
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
