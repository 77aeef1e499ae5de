"""Annotations into rows, on a real SQLite database, without a Label Studio.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PilImage
from sqlalchemy import select

from pipeline.errors import ImageSourceError
from pipeline.images.catalog import Catalog, read_image, task_row
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.regions import brush_region
from pipeline.masks import ops as masks
from pipeline.masks.coded import CodedMask
from pipeline.record import annotation_rows
from pipeline.record.tables import Annotation, Image, Region, Task
from pipeline.runtime import Runtime
from pipeline.settings import Settings
from pipeline.sync.annotations import Applied, apply_annotation, submitted_masks
from pipeline.sync.effort import count_prompts

HEIGHT, WIDTH = 20, 30
START = datetime(2026, 1, 1, tzinfo=UTC)


def brush(region_id: str, height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[: height // 2, : width // 2] = True
    return brush_region(
        region_id=region_id,
        mask=CodedMask.of_mask(mask),
        label="Object",
        from_name="mask",
        to_name="image",
    )


def annotation(*regions: dict[str, Any], seconds: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "result": list(regions),
        "was_cancelled": False,
        "created_username": "Ann O. Tator ann@example.com, 3",
        "lead_time": 4.0,
        "updated_at": (START + timedelta(seconds=seconds)).isoformat(),
        **fields,
    }


class Files:
    """Images by name; one that is not there cannot be fetched. Meanwhile something may happen."""

    def __init__(self) -> None:
        self.meanwhile: Callable[[], object] = lambda: None

    def fetch(self, url: str) -> bytes:
        self.meanwhile()
        if not url.endswith(".png"):
            raise ImageSourceError(f"{url} is not here; put it there.")
        file = io.BytesIO()
        PilImage.new("RGB", (WIDTH, HEIGHT), (len(url), 0, 0)).save(file, "PNG")
        return file.getvalue()


class Record:
    """One task and what is known of it."""

    def __init__(self, runtime: Runtime, url: str) -> None:
        self.runtime, self.files = runtime, Files()
        self.settings, self.store, self.sessions = runtime.settings, runtime.store, runtime.sessions
        vars(runtime)["catalog"] = Catalog(self.sessions, self.store, self.files, self.settings)
        with self.sessions.begin() as session:
            session.add(Task(ls_project_id=1, ls_task_id=5, url=url))

    def apply(self, payload: dict[str, Any], config: LabelConfig | None = None) -> Applied:
        return apply_annotation(self.runtime, self.task().id, payload, config)

    def regions(self) -> dict[str, Region]:
        with self.sessions() as session:
            return {region.ls_region_id: region for region in session.scalars(select(Region))}

    def task(self) -> Task:
        with self.sessions() as session:
            return session.scalars(select(Task)).one()


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    with Runtime(Settings(home=tmp_path), migrate=True) as made:
        yield made


@pytest.fixture
def record(runtime: Runtime) -> Record:
    return Record(runtime, "a.png")


def test_an_annotation_becomes_rows(record: Record) -> None:
    applied = record.apply(annotation(brush("a"), brush("b")))
    assert applied == Applied(changed=True, regions=2, prompts_only=False)
    regions = record.regions()
    assert regions.keys() == {"a", "b"}
    assert regions["a"].area == (HEIGHT // 2) * (WIDTH // 2)
    assert masks.from_png(regions["a"].mask).sum() == regions["a"].area
    assert record.task().status == "accepted"
    with record.sessions() as session:
        row = session.scalars(select(Annotation)).one()
    assert row.annotator == "Ann O. Tator ann@example.com"


def test_the_same_and_older_news_change_nothing(record: Record) -> None:
    record.apply(annotation(brush("new"), seconds=10))
    assert not record.apply(annotation(brush("new"), seconds=10)).changed
    assert not record.apply(annotation(brush("old"), seconds=5)).changed
    assert record.regions().keys() == {"new"}
    assert record.apply(annotation(brush("newer"), seconds=11)).changed
    assert record.regions().keys() == {"newer"}


def test_what_is_deleted_is_gone_and_what_is_found_again_comes_back(record: Record) -> None:
    record.apply(annotation(brush("a")))
    with record.sessions.begin() as session:
        assert annotation_rows.remove(session, [7, 8]) == 1
    with record.sessions.begin() as session:
        assert annotation_rows.remove(session, [7]) == 0
    assert record.regions() == {}
    assert record.task().status == "pool"
    assert record.apply(annotation(brush("a"))).changed
    assert record.regions().keys() == {"a"}


def test_a_deleted_task_takes_its_regions_along(record: Record) -> None:
    record.apply(annotation(brush("a")))
    with record.sessions.begin() as session:
        tasks = session.scalars(select(Task)).all()
        assert annotation_rows.remove_tasks(session, tasks) == 1
        assert annotation_rows.remove_tasks(session, tasks) == 0
    assert record.regions() == {}
    assert record.task().status == "deleted"


def test_skipped_annotations_and_prompts_do_not_count(record: Record) -> None:
    click = brush("p") | {"type": "keypointlabels", "value": {"x": 1, "y": 1}}
    assert record.apply(annotation(brush("a"), click, seconds=1)).regions == 1
    assert record.apply(annotation(click, seconds=2)).prompts_only
    assert record.task().status == "pool"
    record.apply(annotation(brush("a"), seconds=3, was_cancelled=True))
    assert record.task().status == "skipped"
    assert record.regions() == {}


def test_a_damaged_region_is_named() -> None:
    found, problems = submitted_masks(annotation(brush("x") | {"original_width": 0}, brush("a")))
    assert [each.region_id for each in found] == ["a"]
    assert len(problems) == 1
    assert problems[0].startswith("Region x: ")


def test_a_mask_of_another_size_is_brought_to_the_images(record: Record) -> None:
    record.apply(annotation(brush("a", height=2 * HEIGHT, width=2 * WIDTH)))
    assert masks.from_png(record.regions()["a"].mask).shape == (HEIGHT, WIDTH)
    assert record.regions()["a"].area == (HEIGHT // 2) * (WIDTH // 2)


def test_a_task_that_shows_another_image_moves_its_regions_there(record: Record) -> None:
    record.apply(annotation(brush("a")))
    with record.sessions.begin() as session:
        task = session.scalars(select(Task)).one()
        task.url, task.image_id = "another.png", None
    assert record.apply(annotation(brush("a"))).changed
    with record.sessions() as session:
        assert len(session.scalars(select(Image)).all()) == 2
    assert record.regions()["a"].image_id == record.task().image_id


def test_without_its_image_a_mask_is_not_lost_but_waits(runtime: Runtime) -> None:
    record = Record(runtime, "nowhere")
    with pytest.raises(ImageSourceError):
        record.apply(annotation(brush("a")))
    assert record.task().problem == "nowhere is not here; put it there."
    with record.sessions.begin() as session:
        assert session.scalars(select(Annotation)).all() == []
        session.scalars(select(Task)).one().url = "a.png"
    assert record.apply(annotation(brush("a"))).changed
    assert record.task().problem is None


def test_a_mask_is_not_put_on_the_image_of_an_address_that_changed(record: Record) -> None:
    def change() -> None:
        with record.sessions.begin() as session:
            task_row(session, 1, 5, "another.png")

    record.files.meanwhile = change
    with pytest.raises(ImageSourceError, match="task 5 changed while its image was fetched"):
        record.apply(annotation(brush("a")))
    assert record.regions() == {}
    assert (record.task().image_id, record.task().problem) == (None, None)
    record.files.meanwhile = lambda: None
    assert record.apply(annotation(brush("a"))).changed
    assert record.regions()["a"].image_id == record.task().image_id
    with record.sessions() as session:
        image = session.get_one(Image, record.regions()["a"].image_id)
    assert read_image(record.store, image, record.settings.images)[0, 0, 0] == len("another.png")


def test_no_connection_is_held_while_the_image_is_fetched(record: Record) -> None:
    pool = record.sessions().get_bind().pool
    held = []
    record.files.meanwhile = lambda: held.append(pool.checkedout())
    assert record.apply(annotation(brush("a"))).changed
    assert held == [0]


def test_an_older_state_that_waited_for_the_image_does_not_replace_a_newer(record: Record) -> None:
    def newer() -> None:
        record.files.meanwhile = lambda: None
        record.apply(annotation(brush("new"), seconds=10))

    def elsewhere() -> None:
        thread = threading.Thread(target=newer)
        with record.sessions.begin() as session:  # this thread's download is shared by address
            task_row(session, 1, 5, "another.png")
        thread.start()
        thread.join()

    record.files.meanwhile = elsewhere
    assert not record.apply(annotation(brush("old"), seconds=5)).changed
    assert record.regions().keys() == {"new"}


def test_prompts_are_counted_once_however_often_they_are_repeated() -> None:
    a, b, c = ({"id": name, "positive": name != "b"} for name in "abc")
    box = {"id": "d", "kind": "box"}
    assert count_prompts([[a], [a, b], [a, b, c]]) == (3, 1)
    assert count_prompts([[a], [b], [c]]) == (3, 1)  # auto-accept: only the newest each time
    assert count_prompts([[a, b], [a]]) == (2, 1)  # one undone was made all the same
    assert count_prompts([[box]]) == (1, 0)
    assert count_prompts([]) == (0, 0)


# --- what was drawn or written for the model ---

HINTS = read_label_config(
    '<View><Image name="image" value="$image"/>'
    '<BrushLabels name="mask" toName="image"><Label value="Object"/></BrushLabels>'
    '<KeyPointLabels name="click" toName="image" smart="true"><Label value="Object"/>'
    "</KeyPointLabels>"
    '<BrushLabels name="scribble" toName="image"><Label value="On it" model_hint="positive"/>'
    '<Label value="Off it" model_hint="negative"/></BrushLabels>'
    '<PolygonLabels name="outline" toName="image">'
    '<Label value="Outline" model_hint="positive"/></PolygonLabels>'
    '<EllipseLabels name="ellipse" toName="image">'
    '<Label value="Ellipse" model_hint="positive"/></EllipseLabels>'
    '<BitMaskLabels name="pixels" toName="image">'
    '<Label value="Pixels" model_hint="negative"/></BitMaskLabels>'
    '<TextArea name="text" toName="image" smart="true"/></View>'
)


def drawn(name: str, kind: str, label: str, **value: Any) -> dict[str, Any]:
    return {
        "id": name,
        "type": kind,
        "from_name": name,
        "original_height": HEIGHT,
        "original_width": WIDTH,
        "value": {**value, kind: [label]},
    }


ALL = [[0, 0], [100, 0], [100, 100], [0, 100]]
WORDS = {"id": "text", "type": "textarea", "from_name": "text", "value": {"text": ["a cup"]}}


def scribble(label: str) -> dict[str, Any]:
    painted = brush("scribble") | {"from_name": "scribble"}
    return painted | {"value": {**painted["value"], "brushlabels": [label]}}


ASKED = [
    scribble("On it"),
    scribble("Off it"),
    drawn("outline", "polygonlabels", "Outline", points=ALL, closed=True),
    drawn("ellipse", "ellipselabels", "Ellipse", x=50, y=50, radiusX=20, radiusY=20),
    drawn("pixels", "bitmasklabels", "Pixels", imageDataURL="data:image/png;base64,damaged"),
    WORDS,
    WORDS | {"value": {"text": []}},
]


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: str(asked["id"]))
def test_hints_and_words_never_become_masks(record: Record, asked: dict[str, Any]) -> None:
    found, problems = submitted_masks(annotation(asked, brush("a"), asked), HINTS)
    assert [each.region_id for each in found] == ["a"]
    assert problems == ()
    applied = record.apply(annotation(brush("a"), asked), HINTS)
    assert applied == Applied(changed=True, regions=1, prompts_only=False)
    assert record.regions().keys() == {"a"}
    assert record.task().status == "accepted"


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: str(asked["id"]))
def test_hints_alone_are_prompts_without_a_mask(record: Record, asked: dict[str, Any]) -> None:
    applied = record.apply(annotation(asked), HINTS)
    assert applied == Applied(changed=True, regions=0, prompts_only=True)
    assert record.regions() == {}
    assert record.task().status == "pool"
    with record.sessions() as session:
        assert session.scalars(select(Annotation)).one().prompts_only


def test_an_annotation_with_hints_alone_needs_no_image(runtime: Runtime) -> None:
    record = Record(runtime, "nowhere")
    assert record.apply(annotation(*ASKED), HINTS).prompts_only
    assert record.task().problem is None


def test_the_mask_accepted_after_its_hints_counts(record: Record) -> None:
    assert record.apply(annotation(scribble("On it"), seconds=1), HINTS).prompts_only
    both = annotation(scribble("On it"), brush("a"), seconds=2)
    assert record.apply(both, HINTS) == Applied(True, 1, False)
    assert record.task().status == "accepted"
    assert record.apply(annotation(scribble("On it"), seconds=3), HINTS).prompts_only
    assert record.regions() == {}
    assert record.task().status == "pool"


def test_a_skipped_annotation_with_hints_is_skipped(record: Record) -> None:
    skipped = annotation(scribble("On it"), was_cancelled=True)
    assert not record.apply(skipped, HINTS).prompts_only
    assert record.task().status == "skipped"


def test_what_was_drawn_with_a_hints_tag_is_no_mask_whatever_its_label_is_now() -> None:
    other = scribble("On it") | {"id": "other", "from_name": "mask"}  # no hint of that tag's
    renamed = scribble("Object")
    found, _ = submitted_masks(annotation(other, renamed), HINTS)
    assert [each.region_id for each in found] == ["other"]


def test_without_a_config_every_mask_counts() -> None:
    found, _ = submitted_masks(annotation(scribble("On it")))
    assert [each.label for each in found] == ["On it"]


def test_an_empty_annotation_holds_no_prompts(record: Record) -> None:
    assert record.apply(annotation(), HINTS) == Applied(True, 0, False)
    assert record.task().status == "accepted"  # an image without objects
