"""Finds what a valid labelling config lacks for annotators, and gives the remedies."""

from __future__ import annotations

from typing import Any

from label_studio_sdk.label_interface.interface import LabelInterface

from pipeline.labelstudio.config import LabelConfig


def advise(project_id: int, xml: str, config: LabelConfig) -> tuple[str, ...]:
    """Sentences about what a valid labelling config lacks; none if it lacks nothing."""
    advice = labels_apart(xml, config)
    if config.click_tag is None:
        advice.append(
            'The labelling config has no smart <KeyPointLabels>; add one with smart="true" '
            'smartOnly="true" so that a click asks the model.'
        )
    if config.box_tag is None:
        advice.append(
            'The labelling config has no smart <RectangleLabels>; add one with smart="true" '
            'smartOnly="true" so that a box asks the model.'
        )
    if "smartOnly" not in xml:
        advice.append(
            'No tag of the labelling config has smartOnly="true", so a label\'s digit picks a '
            "tool that asks no model; add it to the smart tags."
        )
    lacking = []
    if config.notice_tag is None:
        lacking.append("no place to tell annotators what goes wrong")
    if not (config.hints and config.waiting_labels):
        lacking.append("no tools to draw hints for the model")
    if lacking:
        advice.append(
            f"The labelling config has {' and '.join(lacking)}; `maskloop connect --project "
            f"{project_id} --template` replaces it with one that has."
        )
    return tuple(advice)


def labels_apart(xml: str, config: LabelConfig) -> list[str]:
    """Sentences about masks that get lost although every tag is there.

    The causes are labels that differ between the tags, and paths that stay open. A single label of
    a smart tool that no mask can carry is not a fault: its clicks take away from a mask.
    """
    tags = {str(tag.name): tag for tag in LabelInterface(xml).controls}
    masks = tags[config.output_tag]
    alike = {_letters(label): label for label in config.labels}
    said = []
    for name in (config.click_tag, config.box_tag):
        labels = [] if name is None else list(tags[name].labels)
        labels = [label for label in labels if label not in config.waiting_labels]
        foreign = [label for label in labels if label not in config.labels]
        meant = [(each, alike[_letters(each)]) for each in foreign if _letters(each) in alike]
        if meant:
            pairs = " and ".join(f"{each!r} for {mask!r}" for each, mask in meant)
            said.append(
                f"{as_tag(tags[str(name)])} says {pairs}, which are different labels than those of "
                f"{as_tag(masks)}, so prompts with them get no mask; write them alike."
            )
        elif labels and len(foreign) == len(labels):
            said.append(
                f"{as_tag(tags[str(name)])} shares no label with {as_tag(masks)}, so all that is "
                "asked with it gets no mask; give both the same labels."
            )
    if config.output == "vector" and str(masks.attr.get("closable")).lower() != "true":
        said.append(
            f'{as_tag(masks)} has no closable="true", so submitted paths stay open and never count '
            "as masks; add it to the tag."
        )
    return said


def _letters(label: str) -> str:
    return "".join(label.split()).casefold()


def as_tag(tag: Any) -> str:
    """A tag of a labelling config, as messages show it."""
    return f'<{tag.tag} name="{tag.name}">'
