"""Every kind of prompt in Label Studio's own page; each mask is compared with its object.

It is longer than 300 lines because all its tests draw on one page.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from model.checkpoints.files import save
from model.masks import Mask, iou
from pipeline.labelstudio.regions import mask_of
from pipeline.labelstudio.template import write_label_config
from pipeline.record.tables import Interaction, Region
from tests.browser.labelling import (
    HEIGHT,
    WIDTH,
    Loop,
    backend_process,
    ids,
    loop,
    masks,
    opened,
    two_objects,
)
from tests.browser.page import LabelStudioPage, masks_in
from tests.services.label_studio import LabelStudioServer
from tests.shapes import named_picture
from tests.words import HELD, SIDE, teach

__all__ = ["loop"]

pytestmark = pytest.mark.browser

ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
DISC: Mask = (ROWS - 120) ** 2 + (COLUMNS - 160) ** 2 < 50**2
LEFT_DISC: Mask = (ROWS - 120) ** 2 + (COLUMNS - 80) ** 2 < 50**2
SQUARE: Mask = (ROWS >= 80) & (ROWS < 160) & (COLUMNS >= 200) & (COLUMNS < 280)


def one(answer: dict[str, Any]) -> dict[str, Any]:
    (region,) = masks_in(answer)
    return region


def fits(region: dict[str, Any], shape: Mask, least: float = 0.85) -> bool:
    mask = mask_of(region)
    assert mask is not None
    found = iou(mask, shape)
    assert found > least, f"IoU {found:.2f} with the object"
    return True


def ready(loop: Loop, annotator: LabelStudioPage, seed: int) -> int:
    task = loop.task(seed)
    annotator.open_task(loop.project, task)
    annotator.use_smart_tools()
    return task


def kinds(loop: Loop) -> list[str]:
    """The kinds of the prompts of the newest answer."""
    with loop.sessions() as session:
        row = session.scalars(select(Interaction).order_by(Interaction.id.desc()).limit(1)).one()
    return [("" if p["positive"] else "-") + p["kind"] for p in row.prompts]


def stored_mask(annotation: dict[str, Any], region_id: str) -> dict[str, Any]:
    """The mask of a region. Label Studio repeats an accepted region under the tag of the click."""
    found = [r for r in annotation["result"] if r["id"] == region_id and mask_of(r) is not None]
    return found[0]


def test_click_alt_click_and_box_on_one_object_end_in_one_good_region(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    ready(loop, annotator, 20)
    annotator.choose("1", "k")
    first = one(annotator.click(160, 120))
    second = one(annotator.click(40, 40, negative=True))
    annotator.choose("3", "r")
    third = one(annotator.drag(108, 68, 212, 172))
    assert first["id"] == second["id"] == third["id"]
    assert fits(third, DISC)
    annotator.accept()
    stored = annotator.submit()
    assert ids(stored) == [first["id"]]
    assert fits(stored["result"][0], DISC)


@pytest.mark.parametrize(
    ("keys", "drawn"),
    [
        (("9",), "outline"),
        (("7",), "scribble"),
        (("0",), "ellipse"),
    ],
)
def test_a_drawing_and_a_click_that_reads_it(
    loop: Loop, annotator: LabelStudioPage, keys: tuple[str, ...], drawn: str
) -> None:
    ready(loop, annotator, 21)
    annotator.pick(*keys)
    if drawn == "outline":
        annotator.outline((108, 68), (212, 68), (212, 172), (108, 172))
    elif drawn == "scribble":
        annotator.stroke((130, 120), (160, 95), (190, 120), (160, 145))
    else:
        annotator.stroke((160, 120), (212, 172))
    annotator.choose("k", "d")
    region = one(annotator.click(160, 120, on_region=True))
    assert fits(region, DISC)
    assert kinds(loop) == ["scribble" if drawn == "scribble" else "polygon", "click"]
    assert annotator.notice() == ""
    annotator.accept()
    stored = annotator.submit()
    assert fits(stored_mask(stored, region["id"]), DISC)
    loop.reconcile()
    with loop.sessions() as session:  # the drawing does not count as a mask
        rows = session.scalars(select(Region).where(Region.label != "Object")).all()
    assert rows == []


def test_a_negative_stroke_takes_away(loop: Loop, annotator: LabelStudioPage) -> None:
    ready(loop, annotator, 22)
    annotator.pick("8")
    annotator.stroke((20, 30), (300, 30))
    annotator.choose("k", "d")
    region = one(annotator.click(160, 120, on_region=True))
    assert fits(region, DISC)
    assert kinds(loop) == ["-scribble", "click"]


def test_a_mask_painted_by_hand_is_gone_on_from_in_place(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    ready(loop, annotator, 23)
    annotator.pick("5")
    annotator.stroke((130, 120), (160, 90), (190, 120), (160, 150), (130, 120))
    annotator.choose("k", "d")
    region = one(annotator.click(160, 120, on_region=True))
    assert fits(region, DISC)
    annotator.accept()
    stored = annotator.submit()
    assert ids(stored) == [region["id"]]
    assert fits(stored_mask(stored, region["id"]), DISC)


def test_a_click_that_finds_no_drawing_says_so(loop: Loop, annotator: LabelStudioPage) -> None:
    ready(loop, annotator, 24)
    annotator.choose("k", "d")
    assert fits(one(annotator.click(160, 120)), DISC)
    assert "no new drawing" in annotator.notice()
    annotator.choose("1", "k")
    annotator.click(165, 125, on_region=True)
    assert annotator.notice() == ""
    annotator.accept()
    stored = annotator.submit()
    assert {region["from_name"] for region in stored["result"]} <= {"mask", "click"}


def test_two_objects_of_one_label(loop: Loop, annotator: LabelStudioPage) -> None:
    task = loop.client.upload_image(loop.project, "pair.png", two_objects())
    annotator.open_task(loop.project, task)
    annotator.use_smart_tools()
    annotator.choose("1", "k")
    disc = one(annotator.click(80, 120))
    annotator.accept()
    annotator.choose("3", "r")
    square = one(annotator.drag(198, 78, 282, 162))
    annotator.accept()
    assert disc["id"] != square["id"]
    stored = annotator.submit()
    assert ids(stored) == [disc["id"], square["id"]]
    found = masks(stored)
    assert iou(found[0], LEFT_DISC) > 0.85
    assert iou(found[1], SQUARE) > 0.85


def test_a_rejected_mask_is_gone_and_the_next_click_starts_anew(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    ready(loop, annotator, 25)
    annotator.choose("1", "k")
    annotator.click(20, 20)
    annotator.reject()
    assert annotator.regions() == 0
    region = one(annotator.click(160, 120))
    assert fits(region, DISC)
    assert kinds(loop) == ["click"]
    annotator.accept()
    assert ids(annotator.submit()) == [region["id"]]


def test_an_undone_click_is_left_out_of_the_next_answer(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    ready(loop, annotator, 30)
    annotator.choose("1", "k")
    first = one(annotator.click(160, 120))
    annotator.click(165, 125, negative=True)  # a mistake: it is on the object
    annotator.undo()
    annotator.choose("1", "k")  # undo deselects the label
    third = one(annotator.click(40, 40, negative=True))
    assert third["id"] == first["id"]
    assert fits(third, DISC)
    with loop.sessions() as session:
        row = session.scalars(select(Interaction).order_by(Interaction.id.desc()).limit(1)).one()
    places = [(round(p["x"], -1), round(p["y"], -1)) for p in row.prompts]
    assert places == [(160, 120), (40, 40)]


def test_with_many_labels_the_keys_of_tools_are_still_theirs(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    other = loop.with_config("many", write_label_config([f"kind {n}" for n in range(12)]))
    ready(other, annotator, 31)
    annotator.choose("3", "k")
    region = one(annotator.click(160, 120))
    assert region["value"]["brushlabels"] == ["kind 2"]
    annotator.reject()
    annotator.choose("t", "r")  # the box's first label
    region = one(annotator.drag(108, 68, 212, 172))
    assert fits(region, DISC)


def test_auto_accept_replaces_one_region_in_place(loop: Loop, annotator: LabelStudioPage) -> None:
    ready(loop, annotator, 26)
    annotator.auto_accept()
    annotator.choose("1", "k")
    first = one(annotator.click(160, 120))
    second = one(annotator.click(140, 110, on_region=True))
    third = one(annotator.click(180, 130, on_region=True))
    assert first["id"] == second["id"] == third["id"]
    stored = annotator.submit()
    assert ids(stored) == [first["id"]]
    assert fits(third, DISC)
    assert iou(masks(stored)[0], DISC) > 0.85


@pytest.mark.parametrize("output", ["polygon", "vector", "bitmask"])
def test_masks_come_as_the_labelling_config_asks(
    loop: Loop, annotator: LabelStudioPage, output: Any
) -> None:
    other = loop.with_config(output, write_label_config(["Object"], output))
    ready(other, annotator, 27)
    annotator.choose("1", "k")
    first = one(annotator.click(160, 120))
    assert first["type"] == f"{output}labels"
    assert fits(first, DISC)
    second = one(annotator.click(20, 20, negative=True))
    assert second["id"] == first["id"]
    annotator.accept()
    stored = annotator.submit()
    assert ids(stored) == [first["id"]]
    assert iou(masks(stored)[0], DISC) > 0.85
    other.reconcile()
    with other.sessions() as session:
        row = session.scalars(select(Region).where(Region.ls_region_id == first["id"])).one()
    assert row.label == "Object"
    assert row.interaction_id is not None


def test_words_to_a_model_that_knows_none_get_a_notice(
    loop: Loop, annotator: LabelStudioPage
) -> None:
    other = loop.with_config("words", write_label_config(["Object"], text=True))
    ready(other, annotator, 28)
    assert masks_in(annotator.write("a yellow disc")) == []
    assert "knows no words" in annotator.notice()


def test_words_alone_and_then_a_click_give_one_region(
    label_studio: LabelStudioServer,
    annotator: LabelStudioPage,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("words")
    model, _ = teach(folder)
    save(model, folder / "words.safetensors")
    seed, name, shape = next(
        (seed, names[1], indices == 1)
        for seed in HELD
        for _, indices, names in [named_picture(seed, SIDE)]
        if list(names.values()).count(names[1]) == 1
    )
    pixels, _, _ = named_picture(seed, SIDE)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    home = tmp_path_factory.mktemp("wordy")
    with opened(label_studio, home, base=folder / "words.safetensors") as loop:
        config = write_label_config(["Object", "Other"], text=True)
        loop.client.update_project(loop.project, label_config=config)
        task = loop.client.upload_image(loop.project, "named.png", file.getvalue())
        annotator.open_task(loop.project, task)
        annotator.use_smart_tools()
        said = one(annotator.write(name))
        assert fits(said, shape, 0.6)
        assert annotator.notice() == ""
        rows, columns = np.nonzero(shape)
        annotator.pick("1", "k")
        row, column = rows[len(rows) // 2], columns[len(columns) // 2]
        clicked = one(annotator.click(float(column), float(row), on_region=True))
        assert fits(clicked, shape, 0.6)
        assert clicked["id"] == said["id"]
        annotator.accept()
        stored = annotator.submit()
        assert ids(stored) == [said["id"]]
        loop.reconcile()
        with loop.sessions() as session:
            assert session.scalars(select(Region.label)).one() == "Object"


@pytest.fixture
def mortal(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Loop, Any]]:
    """A project whose backend can be killed."""
    home = tmp_path_factory.mktemp("mortal")
    with (
        backend_process(label_studio, home) as process,
        opened(label_studio, home, process.url) as loop,
    ):
        live = f"{process.url}/notice?project={loop.project}"
        config = write_label_config(["Object", "Other"], live=live)
        loop.client.update_project(loop.project, label_config=config)
        yield loop, process


def test_a_backend_killed_between_two_clicks_goes_on_from_the_first(
    mortal: tuple[Loop, Any], annotator: LabelStudioPage
) -> None:
    loop, process = mortal
    ready(loop, annotator, 29)
    annotator.choose("1", "k")
    first = one(annotator.click(160, 120))
    annotator.page.wait_for_function("true")
    assert annotator.live_notice() == ""

    process.kill()
    annotator.page.wait_for_timeout(4_000)
    assert annotator.live_notice() == "The model is unavailable. Your drawing is safe."
    annotator.click(200, 60, negative=True)  # no backend answers; the page keeps the click
    process.start()
    annotator.page.wait_for_timeout(4_000)
    assert annotator.live_notice() == ""

    second = one(annotator.click(40, 40, negative=True))
    assert second["id"] == first["id"]
    assert fits(second, DISC)
    with loop.sessions() as session:
        rows = session.scalars(select(Interaction).order_by(Interaction.id)).all()
    assert [len(row.prompts) for row in rows] == [1, 3]
    annotator.accept()
    assert ids(annotator.submit()) == [first["id"]]
