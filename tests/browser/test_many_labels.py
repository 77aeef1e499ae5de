"""Keys in Label Studio's page with many labels, and with two tags that have an eraser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from playwright.sync_api import ViewportSize

from model.masks import Mask, iou
from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.template import write_label_config
from tests.browser.labelling import HEIGHT, WIDTH, Loop, loop
from tests.browser.page import LabelStudioPage, masks_in

__all__ = ["loop"]

pytestmark = pytest.mark.browser

ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
DISC: Mask = (ROWS - 120) ** 2 + (COLUMNS - 160) ** 2 < 50**2
TALL = ViewportSize(width=1400, height=1700)  # in the usual size, the labels leave little space


def overlap(region: dict[str, Any]) -> float:
    mask = mask_of(region)
    assert mask is not None
    return iou(mask, DISC)


def opened(loop: Loop, annotator: LabelStudioPage, title: str, xml: str) -> tuple[Loop, int]:
    """A project with a labelling config, and its one task on the page."""
    other = loop.with_config(title, xml)
    task = other.task(40)
    annotator.page.set_viewport_size(TALL)
    annotator.open_task(other.project, task)
    annotator.use_smart_tools()
    return other, task


def asked(annotator: LabelStudioPage, key: str, tool: str, label: str) -> None:
    """Press the keys of a label and a tool, use the tool, check its answer, and reject it."""
    annotator.pick(key)
    annotator.choose(tool)
    answer = annotator.click(160, 120) if tool == "k" else annotator.drag(108, 68, 212, 172)
    (region,) = masks_in(answer)
    assert region["value"]["brushlabels"] == [label], (key, tool)
    assert overlap(region) > 0.8
    annotator.reject()


@pytest.mark.parametrize(
    ("count", "last", "box", "hint"),
    [(15, "s", "f", "Shift+6"), (25, "l", "Shift+Q", "Shift+7")],
)
def test_keys_of_labels_and_of_tools_stay_apart(
    loop: Loop, annotator: LabelStudioPage, count: int, last: str, box: str, hint: str
) -> None:
    xml = write_label_config([f"kind {n}" for n in range(count)])
    opened(loop, annotator, f"{count} labels", xml)
    asked(annotator, "3", "k", "kind 2")
    asked(annotator, last, "k", f"kind {count - 1}")
    asked(annotator, box, "r", "kind 0")
    annotator.pick(hint)
    annotator.stroke((130, 120), (160, 95), (190, 120), (160, 145))
    annotator.choose("k", "d")
    (region,) = masks_in(annotator.click(160, 120, on_region=True))
    assert overlap(region) > 0.8
    assert annotator.notice() == ""  # the scribble was found


def test_a_label_without_a_key_is_chosen_with_the_mouse(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    opened(loop, annotator, "mouse", write_label_config([f"kind {n}" for n in range(25)]))
    annotator.pick()
    annotator.page.locator(".lsf-label", has_text="kind 24").nth(1).click()  # the box's
    annotator.choose("r")
    (region,) = masks_in(annotator.drag(108, 68, 212, 172))
    assert region["value"]["brushlabels"] == ["kind 24"]
    assert overlap(region) > 0.8


def test_e_erases_from_a_mask_of_a_bitmask_tag(loop: Loop, annotator: LabelStudioPage) -> None:
    other, task = opened(loop, annotator, "eraser", write_label_config(["Object"], "bitmask"))
    annotator.choose("1", "k")
    annotator.click(160, 120)
    annotator.accept()
    annotator.pick("v")
    annotator.page.mouse.click(*annotator.on_screen(160, 120))  # selects it
    annotator.page.keyboard.press("e")
    for row in range(105, 140, 5):
        drag(annotator, (140, row), (180, row))
    annotator.pick()
    annotator.wait_for_draft()
    (draft,) = other.client.drafts(task)
    (mask,) = [mask for each in draft["result"] if (mask := mask_of(each)) is not None]
    hole = (abs(ROWS - 120) < 10) & (abs(COLUMNS - 160) < 15)
    assert not mask[hole].any()
    assert 0.5 < iou(mask, DISC) < 0.95


def drag(annotator: LabelStudioPage, start: tuple[int, int], end: tuple[int, int]) -> None:
    mouse = annotator.page.mouse
    mouse.move(*annotator.on_screen(*start))
    mouse.down()
    mouse.move(*annotator.on_screen(*end), steps=6)
    mouse.up()
