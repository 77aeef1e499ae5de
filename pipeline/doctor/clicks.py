"""``maskloop doctor`` checks what a click needs: labelling config, images, a way to the model.

Each docstring of a check says what is true when the check is passed.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

from label_studio_sdk.label_interface.interface import LabelInterface

from model.errors import MaskloopError
from pipeline.doctor.case import Answer, Case, advice, ok, problem
from pipeline.images.decode import decode_image
from pipeline.labelstudio.advice import as_tag, labels_apart
from pipeline.labelstudio.config import LabelConfig
from pipeline.record import annotation_rows, tasks

TASKS_TRIED = 3  # each is downloaded and decoded
NAMED = 5  # tasks named in one sentence
SLOW_SECONDS = 2.0
SMART = 'smart="true" smartOnly="true"'


def labelling_config(case: Case) -> Answer:
    """The config has a tag for masks, and smart tools for prompts, with the same labels."""
    config = case.config  # raises when the tag for masks or every smart tool is missing
    controls = list(LabelInterface(str(case.project["label_config"])).controls)
    by_name = {str(tag.name): tag for tag in controls}
    smart = [by_name[name] for name in (config.click_tag, config.box_tag) if name is not None]
    if apart := labels_apart(str(case.project["label_config"]), config):
        return problem(apart[0])
    plain = [tag for tag in controls if tag.tag == "KeyPointLabels" and not _is(tag, "smart")]
    if config.click_tag is None and plain:
        return problem(
            f"{as_tag(plain[0])} is no smart tool, so its clicks ask no model; give it {SMART} in "
            "the project's labelling config."
        )
    for tag in smart:
        if not _is(tag, "smartOnly"):
            return problem(
                f"{as_tag(tag)} is not smartOnly, so a label's key picks a tool that asks no "
                f"model; give it {SMART} in the project's labelling config."
            )
    hints = _hints(by_name[config.output_tag], smart, config)
    if config.click_tag is None:
        hints.append(f"there is no <KeyPointLabels> to click with; add one with {SMART}")
    if config.notice_tag is None:
        hints.append(
            "the config has no place for error messages to annotators; `maskloop connect "
            "--template` replaces it by one that has"
        )
    if hints:
        return advice(f"Clicks work, but {'; and '.join(hints)}.")
    return ok(f"Clicks ask for masks of {', '.join(config.labels)}.")


def _hints(brush: Any, smart: list[Any], config: LabelConfig) -> list[str]:
    labels, waiting = config.labels, config.waiting_labels
    hints = []
    if brush.tag == "BrushLabels" and str(brush.attr.get("smart", "true")).lower() != "false":
        hints.append(
            f"{as_tag(brush)} is offered as a smart tool, whose strokes Label Studio sends to no "
            'backend; give it smart="false"'
        )
    for tag in smart:
        if lacking := [label for label in labels if label not in tag.labels]:
            hints.append(f"{as_tag(tag)} lacks the labels {', '.join(lacking)}; add them")
        known = (*labels, *waiting)
        if foreign := [label for label in tag.labels if label not in known]:
            hints.append(
                f"the labels {', '.join(foreign)} of {as_tag(tag)} only take away from masks; "
                f"add them to {as_tag(brush)} if they should not"
            )
    return hints


def images(case: Case) -> Answer:
    """The images of a few tasks can be fetched and read."""
    field = case.config.image_field
    tried = list(islice(case.client.tasks(case.project_id), TASKS_TRIED))
    for task in tried:
        url = task.data.get(field)
        if not isinstance(url, str) or not url:
            return problem(
                f"Task {task.id} has no address in its field {field!r}, where the labelling config "
                "looks for the image; add it to the task's data, or correct the value of <Image>."
            )
        try:
            decode_image(case.runtime.source.fetch(url), case.settings.images)
        except MaskloopError as error:
            return problem(f"The image of task {task.id} cannot be used: {error}")
    if not tried:
        return advice(f"Project {case.project_id} has no tasks; import images to label.")
    return ok(f"The images of tasks {_listed([task.id for task in tried])} can be fetched.")


def encoding(case: Case) -> Answer:
    """All images are encoded, so that first clicks do not wait."""
    with case.runtime.sessions() as session:
        total = len(tasks.living(session, case.project_id))
        problems = tasks.problems(session, case.project_id)
        waiting = len(tasks.to_encode(session, case.project_id))
    if problems:
        return problem(
            f"{len(problems)} of {total} images cannot be used; that of task {problems[0][0]}: "
            f"{problems[0][1]}"
        )
    if waiting or not total:
        return advice(
            f"{waiting or 'No'} of {total} known images {'wait to be' if waiting else 'are'} "
            "encoded, so a first click on them takes longer; wait for the workers, or run "
            f"`maskloop encode --project {case.project_id}`."
        )
    return ok(f"All {total} images are encoded.")


def way_of_a_click(case: Case) -> Answer:
    """A request takes the way of a click, from Label Studio to the backend and back.

    The request holds no click, like one after all clicks were undone, so nothing is stored.
    """
    first = next(case.client.tasks(case.project_id), None)
    if first is None:
        return Answer("skipped", "Not tried; the project has no task to click on.")
    began = time.monotonic()
    answer = case.client.interactive(case.our_backends[0]["id"], first.id, [])
    seconds = time.monotonic() - began
    if answer.get("errors") or "data" not in answer:
        said = " ".join(str(answer.get("errors") or answer).split())[:300]
        return problem(
            f"Label Studio gets no answer to a click ({said}), and does not show this to the "
            "annotator; look at the backend's log."
        )
    if seconds > SLOW_SECONDS:
        return advice(
            f"A request takes {seconds:.1f} s to the backend and back; find out which other "
            "programs keep the machines of Label Studio and the backend busy."
        )
    return ok(f"A request takes {1000 * seconds:.0f} ms to the backend and back.")


def ticks(case: Case) -> Answer:
    """Annotations were submitted with their masks."""
    with case.runtime.sessions() as session:
        bare = annotation_rows.tasks_without_masks(session, case.project_id)
    if bare:
        return advice(
            f"{len(bare)} annotations hold clicks and no mask, because Submit was pressed without "
            f"the tick; open them again and press the tick first (tasks {_listed(bare)})."
        )
    return ok("Every annotation that has clicks has a mask.")


def _is(tag: Any, attribute: str) -> bool:
    return str(tag.attr.get(attribute, "false")).lower() == "true"


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:NAMED])
    return shown if len(numbers) <= NAMED else f"{shown} and {len(numbers) - NAMED} more"
