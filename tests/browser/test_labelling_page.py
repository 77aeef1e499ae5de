"""The labelling page with the real backend: the results of a click, the tick and Submit."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from pipeline.labelstudio.regions import mask_of
from pipeline.record.tables import Effort, Interaction, Region, Round, RoundItem, Task
from pipeline.runtime import Runtime
from pipeline.selection.label_order import write_round
from tests.browser.labelling import Loop, ids, loop, masks, two_objects
from tests.browser.page import LabelStudioPage, masks_in

__all__ = ["loop"]

pytestmark = pytest.mark.browser


def test_two_clicks_the_tick_and_submit(loop: Loop, annotator: LabelStudioPage) -> None:
    task = loop.task(1)
    annotator.open_task(loop.project, task)
    annotator.use_smart_tools()
    annotator.choose("1", "k")
    first = masks_in(annotator.click(160, 120))
    second = masks_in(annotator.click(40, 40, negative=True))
    assert [len(first), len(second)] == [1, 1]
    assert first[0]["id"] == second[0]["id"]
    annotator.accept()
    assert annotator.regions() == 1
    stored = annotator.submit()
    assert ids(stored) == [second[0]["id"]]
    assert np.array_equal(masks(stored)[0], masks({"result": second})[0])

    loop.reconcile()
    with loop.sessions() as session:
        region = session.scalars(select(Region)).one()
        effort = session.get_one(Effort, region.id)
        prompts = session.get_one(Interaction, region.interaction_id).prompts
    assert (region.ls_region_id, region.label) == (second[0]["id"], "Object")
    assert (effort.clicks, effort.negative_clicks, effort.last_iou) == (2, 1, 1.0)
    assert [prompt["positive"] for prompt in prompts] == [True, False]
    assert prompts[0]["x"] == pytest.approx(160, abs=2)
    assert prompts[0]["y"] == pytest.approx(120, abs=2)


def test_a_box_asks_the_model_too(loop: Loop, annotator: LabelStudioPage) -> None:
    annotator.open_task(loop.project, loop.task(2))
    annotator.use_smart_tools()
    annotator.choose("3", "r")
    answer = masks_in(annotator.drag(100, 60, 220, 180))
    annotator.accept()
    stored = annotator.submit()
    assert ids(stored) == [answer[0]["id"]]


def test_submit_without_the_tick_is_seen_as_prompts_only(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    task = loop.task(3)
    annotator.open_task(loop.project, task)
    annotator.use_smart_tools()
    annotator.choose("1", "k")
    annotator.click(160, 120)
    stored = annotator.submit()
    assert [region["type"] for region in stored["result"]] == ["keypointlabels"]
    loop.reconcile()
    with loop.sessions() as session:
        assert session.scalars(select(Task.status).where(Task.ls_task_id == task)).one() == "pool"


def test_a_task_of_a_round_comes_first_and_can_be_labelled(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    tasks = [loop.task(seed) for seed in range(10, 14)]
    loop.reconcile()
    with loop.sessions.begin() as session:
        row = Round(ls_project_id=loop.project, number=1, settings={})
        session.add(row)
        session.flush()
        chosen = session.scalars(select(Task).where(Task.ls_task_id == tasks[2])).one()
        session.add(RoundItem(round_id=row.id, task_id=chosen.id, rank=0, reason="hard"))
    with Runtime(loop.settings) as runtime:
        write_round(runtime, row.id)
    assert annotator.open_next(loop.project) == tasks[2]
    annotator.use_smart_tools()
    annotator.choose("1", "k")
    answer = masks_in(annotator.click(160, 120))
    annotator.accept()
    stored = annotator.submit()
    assert ids(stored) == [answer[0]["id"]]


def test_proposals_are_there_when_a_task_is_opened_and_a_click_repairs_one(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    task = loop.client.upload_image(loop.project, "two.png", two_objects())
    proposed = {region["id"]: mask_of(region) for region in loop.propose(task)}
    small = {
        name: mask for name, mask in proposed.items() if mask is not None and mask.mean() < 0.2
    }
    disc = next(name for name, mask in small.items() if mask[120, 80])
    box = next(name for name, mask in small.items() if mask[120, 240])

    annotator.open_task(loop.project, task)
    assert annotator.regions() == len(proposed)
    annotator.use_smart_tools()
    annotator.choose("1", "k")
    (answer,) = masks_in(annotator.click(240, 120, on_region=True))
    assert answer["id"] == box
    annotator.accept()
    assert annotator.regions() == len(proposed)
    stored = annotator.submit()
    kept = dict(zip(ids(stored), masks(stored), strict=True))
    assert kept.keys() == proposed.keys()
    np.testing.assert_array_equal(kept[disc], proposed[disc])
    np.testing.assert_array_equal(kept[box], mask_of(answer))

    loop.reconcile()
    with loop.sessions() as session:
        rows = session.scalars(select(Region).where(Region.ls_region_id.in_(proposed))).all()
        assert {row.ls_region_id for row in rows} == proposed.keys()
        clicked = [row.ls_region_id for row in rows if session.get(Effort, row.id)]
    assert clicked == [box]  # the others were accepted without a click


def test_a_task_on_which_nothing_was_found_opens_empty_and_can_be_labelled(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), (128, 128, 128)).save(file, "PNG")
    task = loop.client.upload_image(loop.project, "plain.png", file.getvalue())
    assert loop.propose(task) == []

    annotator.open_task(loop.project, task)
    assert annotator.regions() == 0
    annotator.use_smart_tools()
    annotator.choose("1", "k")
    answer = masks_in(annotator.click(160, 120))
    annotator.accept()
    assert ids(annotator.submit()) == [answer[0]["id"]]
