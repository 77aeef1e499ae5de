"""Which region a request means and which marks it gets, with a scene that needs no network.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.click.region_match import find_region
from backend.process.region_masks import RegionMasks
from backend.request.prompts import Mark
from backend.request.question import Gesture, TaskView, words_mark
from backend.request.session import DRAFT_DELAY, OpenRegion, Reply, new_region_id
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.regions import brush_region
from pipeline.masks.coded import CodedMask
from pipeline.record.tables import now

HEIGHT, WIDTH = 50, 100
CONFIG = read_label_config(
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="mask" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>'
    '<KeyPointLabels name="click" toName="image" smart="true">'
    '<Label value="Cat"/><Label value="Dog"/><Label value="Background"/></KeyPointLabels>'
    '<EllipseLabels name="ellipse" toName="image">'
    '<Label value="Ellipse" model_hint="positive"/></EllipseLabels>'
    '<BrushLabels name="scribble" toName="image">'
    '<Label value="On" model_hint="positive"/></BrushLabels>'
    '<TextArea name="text" toName="image" smart="true"/></View>'
)

LEFT = np.zeros((HEIGHT, WIDTH), np.bool_)
LEFT[10:40, 10:40] = True
RIGHT = LEFT[:, ::-1].copy()
ON_LEFT = Mark("a", "click", True, 25.0, 25.0)
MORE_LEFT = Mark("b", "click", True, 30.0, 30.0)
ON_RIGHT = Mark("c", "click", True, 75.0, 25.0)
NOT_LEFT = Mark("n", "click", False, 25.0, 25.0)


@dataclass
class Stage:
    """A scene, its history and a decoder in one; the answer to a click is its half of the image."""

    log: list[Reply] = field(default_factory=list)
    forgotten: list[Reply] = field(default_factory=list)  # too old for the log
    kept: list[dict[str, Any]] = field(default_factory=list)
    masks: dict[int, NDArray[np.bool_]] = field(default_factory=dict)  # by reply
    config: LabelConfig = CONFIG
    knows_words: bool = True
    project_id: int = 1
    decoded: list[tuple[Mark, ...]] = field(default_factory=list)
    image: Any = field(default_factory=lambda: SimpleNamespace(height=HEIGHT, width=WIDTH))
    region_masks: RegionMasks = field(default_factory=RegionMasks)
    model: Any = field(
        default_factory=lambda: SimpleNamespace(config=SimpleNamespace(threshold=0.5))
    )

    @property
    def view(self) -> TaskView:
        shown = {region["id"]: region for region in self.kept}
        return TaskView(2, {}, kept=shown, drawn=shown)

    def decode(self, marks: Sequence[Mark], mask: Any) -> Any:
        assert mask is None
        self.decoded.append(tuple(marks))
        answer = LEFT if marks[-1].x < WIDTH / 2 else RIGHT
        return SimpleNamespace(probability=answer.astype(np.float32))

    def uses(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for reply in (*self.log, *self.forgotten):
            for mark in (*reply.own, *reply.carried):
                found.setdefault(mark.id, set()).add(reply.region_id)
        return found

    @property
    def size(self) -> tuple[int, int]:
        return HEIGHT, WIDTH

    def shown(self, region_id: str) -> NDArray[np.bool_] | None:
        return self.region_masks.mask(self.view.kept.get(region_id))

    def probability(self, reply: Reply) -> NDArray[np.float32]:
        return self.masks[reply.id].astype(np.float32)

    def log_reply(
        self,
        region_id: str,
        *own: Mark,
        mask: NDArray[np.bool_] = LEFT,
        carried: tuple[Mark, ...] = (),
        label: str = "Cat",
        old: bool = False,
    ) -> None:
        """Log a reply; the newest comes first."""
        number = len(self.log) + 1
        at = now() - (2 * DRAFT_DELAY if old else timedelta(0))
        self.log.insert(0, Reply(number, region_id, label, carried, own, 1, at))
        self.masks[number] = mask

    def find(
        self, *marks: Mark, label: str | None = "Cat", waited: bool = False
    ) -> tuple[OpenRegion, tuple[Mark, ...]] | None:
        stage = cast(Any, self)  # scene, history and decoder in one
        gesture = Gesture(marks, label, 0)
        meant = find_region(stage, stage, stage, gesture, marks, waited=waited)
        return None if meant is None else (meant.region, meant.marks)

    def region_of(self, *marks: Mark, **options: Any) -> OpenRegion:
        found = self.find(*marks, **options)
        assert found is not None
        return found[0]

    def marks_of(self, *marks: Mark, **options: Any) -> list[str]:
        found = self.find(*marks, **options)
        assert found is not None
        return [mark.id for mark in found[1]]


def region(
    name: str, mask: NDArray[np.bool_], label: str = "Cat", score: float | None = 0.9
) -> dict[str, Any]:
    return brush_region(
        region_id=name,
        mask=CodedMask.of_mask(mask),
        label=label,
        from_name="mask",
        to_name="image",
        score=score,
    )


def ellipse(name: str = "e") -> dict[str, Any]:
    return {
        "id": name,
        "type": "ellipselabels",
        "from_name": "ellipse",
        "original_height": HEIGHT,
        "original_width": WIDTH,
        "value": {"x": 25, "y": 50, "radiusX": 10, "radiusY": 20, "ellipselabels": ["Ellipse"]},
    }


def written(name: str, words: str) -> dict[str, Any]:
    return {"id": name, "type": "textarea", "from_name": "text", "value": {"text": [words]}}


NEW = new_region_id(1, 2, "Cat", ON_LEFT)


# --- sessions ---


def test_a_first_click_begins_a_region() -> None:
    stage = Stage()
    assert stage.find(ON_LEFT) == (OpenRegion(NEW, "Cat"), (ON_LEFT,))
    assert stage.decoded == []  # there is nothing that it could repair


def test_the_next_click_goes_on_with_it() -> None:
    stage = Stage()
    stage.log_reply(NEW, ON_LEFT)
    assert stage.find(ON_LEFT, MORE_LEFT) == (OpenRegion(NEW, "Cat"), (ON_LEFT, MORE_LEFT))


def test_a_session_may_change_its_label() -> None:
    stage = Stage()
    stage.log_reply(NEW, ON_LEFT)
    assert stage.region_of(ON_LEFT, label="Dog") == OpenRegion(NEW, "Dog")


def test_clicks_are_kept_when_a_box_follows() -> None:
    stage = Stage()
    box = Mark("box", "box", True, 10, 10, 40, 40)
    before = Mark("z", "click", True, 20, 20)
    stage.log_reply("r", ON_LEFT, carried=(before,))
    stage.log_reply("r", box, carried=(before, ON_LEFT))
    # The page sends the clicks again or the box again, but never both.
    thread, own = cast(Any, stage.find(ON_LEFT, MORE_LEFT))
    assert thread == OpenRegion("r", "Cat", (before, box))
    assert own == (ON_LEFT, MORE_LEFT)


# --- labels that no mask can have, and words ---


def test_a_background_click_takes_from_the_region_answered_last() -> None:
    stage = Stage()
    stage.log_reply("r", ON_LEFT)
    click = Mark("n", "click", True, 25, 25)
    found = stage.find(click, label="Background")
    assert found == (OpenRegion("r", "Cat", (ON_LEFT,)), (NOT_LEFT,))


def test_more_background_clicks_go_on_with_the_same_region() -> None:
    stage = Stage()
    stage.log_reply("r", ON_LEFT)
    stage.log_reply("r", NOT_LEFT, carried=(ON_LEFT,))
    stage.log_reply("s", ON_RIGHT, mask=RIGHT)
    clicks = (Mark("n", "click", True, 25, 25), Mark("m", "click", True, 26, 26))
    thread, own = cast(Any, stage.find(*clicks, label="Background"))
    assert thread == OpenRegion("r", "Cat", (ON_LEFT,))
    assert [(mark.id, mark.positive) for mark in own] == [("n", False), ("m", False)]


def test_background_means_nothing_before_there_is_a_region_and_as_a_box() -> None:
    stage = Stage()
    assert stage.find(ON_LEFT, label="Background") is None
    stage.log_reply("r", ON_LEFT)
    box = Mark("box", "box", True, 10, 10, 40, 40)
    assert stage.find(box, label="Background") is None


@pytest.mark.parametrize(
    ("words", "last", "label"),
    [("dog", "Cat", "Dog"), ("DOG", None, "Dog"), ("a dog", "Dog", "Dog"), ("a dog", None, "Cat")],
)
def test_words_are_labelled_by_what_they_say_or_as_before(
    words: str, last: str | None, label: str
) -> None:
    stage = Stage()
    if last is not None:
        stage.log_reply("r", ON_RIGHT, mask=RIGHT, label=last, old=True)
    text = Mark("t", "text", True, text=words)
    assert stage.region_of(text, label=None).label == label


# --- hints ---


def test_drawings_come_before_the_click_that_asks_for_them() -> None:
    stage = Stage(kept=[ellipse("e"), written("w", "a cat"), ellipse("f")])
    found = [name.partition("/")[0] for name in stage.marks_of(ON_LEFT)]
    assert found == ["e", "w", "f", "a"]


def test_words_on_the_page_are_nothing_to_a_model_that_knows_none() -> None:
    stage = Stage(kept=[written("w", "a cat")], knows_words=False)
    assert stage.marks_of(ON_LEFT) == ["a"]


def test_the_words_that_ask_are_not_said_twice() -> None:
    stage = Stage(kept=[written("t", "a cat")])
    text = words_mark("t", written("t", "a cat"))
    assert stage.marks_of(text, label=None) == [text.id]


def test_words_that_were_edited_mean_another_object() -> None:
    stage = Stage()
    cat = words_mark("t", written("t", "a cat"))
    stage.log_reply("accepted", cat, old=True)
    stage.kept = [region("accepted", RIGHT), written("t", "a dog")]
    stage.masks = dict.fromkeys(stage.masks, RIGHT)
    thread, own = cast(Any, stage.find(words_mark("t", written("t", "a dog")), label=None))
    assert [mark.text for mark in own] == ["a dog"]
    assert thread.region_id != "accepted"


def test_a_click_that_reads_a_drawing_finds_its_region_whatever_the_label() -> None:
    stage = Stage(kept=[region("owl", LEFT) | {"value": region("owl", LEFT)["value"]}])
    other = stage.config.labels[1]
    stage.kept[0]["value"]["brushlabels"] = [other]
    thread, _ = cast(Any, stage.find(ON_LEFT, label=None, waited=True))
    assert (thread.region_id, thread.label) == ("owl", other)


def test_a_drawing_stays_with_the_region_it_was_used_for() -> None:
    stage = Stage(kept=[ellipse()])
    thread, own = cast(Any, stage.find(ON_LEFT))
    stage.log_reply(thread.region_id, *own)
    assert stage.marks_of(ON_LEFT, MORE_LEFT) == ["e", "a", "b"]
    assert stage.marks_of(ON_RIGHT) == ["c"]


@pytest.mark.parametrize("waited", [False, True])
def test_a_drawing_that_was_used_long_ago_stays_used(waited: bool) -> None:
    stage = Stage(kept=[ellipse(), region("r", RIGHT)])
    stage.log_reply("r", ON_RIGHT, Mark("e", "polygon", True), mask=RIGHT, old=True)
    stage.forgotten, stage.log = stage.log, []
    assert stage.marks_of(ON_LEFT, waited=waited) == ["a"]


def test_a_drawing_that_is_asked_for_anew_counts_where_its_region_was_rejected() -> None:
    stage = Stage(kept=[ellipse()])
    thread, own = cast(Any, stage.find(ON_LEFT))
    stage.log_reply(thread.region_id, *own, old=True)
    assert stage.marks_of(ON_RIGHT, waited=True) == ["e", "c"]
    stage.kept.append(region(thread.region_id, LEFT))  # accepted after all
    assert stage.marks_of(ON_RIGHT, waited=True) == ["c"]


def test_of_a_scribble_only_strokes_that_are_new_count_for_another_region() -> None:
    scribble = region("s", LEFT, "On", score=None) | {"from_name": "scribble"}
    strokes = [{"type": "add", "relativePoints": [20, 50, 30, 50], "relativeStrokeWidth": 2}]
    drawn = scribble | {"value": {"touches": strokes, "brushlabels": ["On"]}}
    stage = Stage(kept=[drawn])
    thread, own = cast(Any, stage.find(ON_LEFT))
    assert [mark.id for mark in own] == ["s/0", "a"]
    stage.log_reply(thread.region_id, *own)
    strokes.append({**strokes[0], "relativePoints": [70, 50, 80, 50]})
    assert stage.marks_of(ON_RIGHT) == ["s/1", "c"]


def test_a_scribble_that_was_used_stays_used_when_it_is_submitted() -> None:
    submitted = region("s", LEFT, "On", score=None) | {"from_name": "scribble"}
    strokes = [{"type": "add", "relativePoints": [20, 50, 30, 50], "relativeStrokeWidth": 2}]
    drawn = submitted | {"value": {"touches": strokes, "brushlabels": ["On"]}}
    stage = Stage(kept=[drawn])
    thread, own = cast(Any, stage.find(ON_LEFT))
    stage.log_reply(thread.region_id, *own)
    stage.kept = [submitted, region(thread.region_id, LEFT)]
    assert stage.marks_of(ON_RIGHT) == ["c"]


def test_a_new_drawing_joins_a_session_that_goes_on() -> None:
    stage = Stage()
    stage.log_reply(NEW, ON_LEFT)
    stage.kept.append(ellipse())
    assert stage.marks_of(ON_LEFT, MORE_LEFT) == ["e", "a", "b"]


def test_the_answer_that_tells_regions_apart_sees_the_drawings() -> None:
    stage = Stage(kept=[ellipse(), region("r", LEFT)])
    stage.find(ON_LEFT)
    assert [[mark.id for mark in marks] for marks in stage.decoded] == [["e", "a"]]


# --- repairs ---


def test_a_click_on_a_mask_of_ours_on_the_page_goes_on_with_it() -> None:
    stage = Stage(kept=[region("r", LEFT)])
    stage.log_reply("r", ON_LEFT, old=True)
    assert stage.find(MORE_LEFT) == (OpenRegion("r", "Cat", (ON_LEFT,)), (MORE_LEFT,))


def test_until_the_draft_is_saved_only_the_id_is_kept() -> None:
    stage = Stage()
    stage.log_reply("r", ON_LEFT)
    assert stage.region_of(MORE_LEFT) == OpenRegion("r", "Cat")


def test_what_was_answered_long_ago_and_is_not_on_the_page_was_rejected() -> None:
    stage = Stage()
    stage.log_reply("r", ON_LEFT, old=True)
    assert stage.region_of(MORE_LEFT).region_id == new_region_id(1, 2, "Cat", MORE_LEFT)


def test_another_object_is_another_region() -> None:
    stage = Stage(kept=[region("r", LEFT)])
    stage.log_reply("r", ON_LEFT)
    assert stage.region_of(ON_RIGHT).region_id == new_region_id(1, 2, "Cat", ON_RIGHT)


def test_a_mask_of_another_label_is_never_repaired() -> None:
    stage = Stage(kept=[region("r", LEFT, "Dog")])
    stage.log_reply("r", ON_LEFT, label="Dog")
    assert stage.region_of(MORE_LEFT).region_id == new_region_id(1, 2, "Cat", MORE_LEFT)


def test_a_negative_click_means_the_mask_it_is_on_without_a_look() -> None:
    stage = Stage(kept=[region("r", LEFT)])
    stage.log_reply("r", ON_LEFT, old=True)
    stage.log_reply("s", ON_RIGHT, mask=RIGHT)
    assert stage.region_of(NOT_LEFT) == OpenRegion("r", "Cat", (ON_LEFT,))
    beside = Mark("n", "click", False, 75.0, 25.0)
    assert stage.region_of(beside) == OpenRegion("s", "Cat", (ON_RIGHT,))
    nowhere = Mark("n", "click", False, 50.0, 2.0)
    assert stage.region_of(nowhere).region_id == new_region_id(1, 2, "Cat", nowhere)
    assert stage.decoded == []


def test_a_proposal_that_the_log_does_not_have_is_repaired() -> None:
    stage = Stage(kept=[region("p", LEFT, score=0.7)])
    assert stage.region_of(ON_LEFT) == OpenRegion("p", "Cat")


def test_a_mask_painted_by_hand_is_left_alone_until_it_is_asked_for() -> None:
    small = np.zeros_like(LEFT)
    small[22:28, 22:28] = True
    stage = Stage(kept=[region("hand", small, score=None)])
    assert stage.region_of(ON_LEFT).region_id == NEW
    assert stage.region_of(ON_LEFT, waited=True) == OpenRegion("hand", "Cat")
    assert stage.region_of(MORE_LEFT, waited=True).region_id != "hand"  # The click is not on it.


def test_strokes_painted_by_hand_and_not_saved_as_pixels_count_as_a_mask() -> None:
    stroke = {"type": "add", "relativePoints": [25, 20, 25, 80], "relativeStrokeWidth": 20}
    painted = region("hand", LEFT, score=None)
    painted["value"] = {"format": "rle", "touches": [stroke], "brushlabels": ["Cat"]}
    stage = Stage(kept=[painted])
    assert stage.region_of(ON_LEFT, waited=True) == OpenRegion("hand", "Cat")


def test_a_damaged_region_on_the_page_costs_nobody_the_answer() -> None:
    broken = region("p", LEFT) | {"value": {"rle": [1, 2], "brushlabels": ["Cat"]}}
    stage = Stage(kept=[broken])
    assert stage.region_of(ON_LEFT).region_id == NEW
