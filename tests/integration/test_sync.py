"""Sync with a real Label Studio: our rows equal a fresh export, whatever its webhooks do.

It is longer than 300 lines because all its tests share one Label Studio.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as PilImage
from pydantic import SecretStr
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from pipeline.errors import LabelStudioError, UnknownRecordError
from pipeline.labelstudio.connect import connect
from pipeline.labelstudio.regions import brush_region, label_of, mask_of
from pipeline.labelstudio.template import default_label_config
from pipeline.masks import ops as masks
from pipeline.masks import rle
from pipeline.masks.coded import CodedMask
from pipeline.record import events, retries
from pipeline.record.tables import (
    Annotation,
    Effort,
    Event,
    Interaction,
    ModelVersion,
    Region,
    Task,
    now,
)
from pipeline.runtime import Runtime
from pipeline.settings import BackendSettings, LabelStudioSettings, Settings
from pipeline.sync.reconcile import ReconcileReport, reconcile
from pipeline.sync.webhooks import handle_event
from tests.annotator import Annotator
from tests.handshake import PASSWORD, Handshake
from tests.services.label_studio import LabelStudioServer, free_port, label_studio

__all__ = ["label_studio"]

pytestmark = pytest.mark.integration

HEIGHT, WIDTH = 40, 60
Mask = masks.Mask


def square(top: int, left: int, side: int) -> Mask:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def brush(region_id: str, mask: Mask, label: str = "Object") -> dict[str, Any]:
    return brush_region(
        region_id=region_id,
        mask=CodedMask.of_mask(mask),
        label=label,
        from_name="mask",
        to_name="image",
    )


def keypoint(region_id: str) -> dict[str, Any]:
    return {
        "id": region_id,
        "type": "keypointlabels",
        "from_name": "click",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "value": {"x": 50, "y": 50, "width": 1, "keypointlabels": ["Object"]},
    }


@dataclass(frozen=True)
class Loop:
    """Everything that sync needs, with a new project of a real Label Studio."""

    runtime: Runtime
    client: Annotator
    project: int
    handshake: Handshake

    @property
    def sessions(self) -> sessionmaker[Session]:
        return self.runtime.sessions

    def task(self, shade: int = 0) -> int:
        file = io.BytesIO()
        PilImage.new("RGB", (WIDTH, HEIGHT), (shade, 90, 120)).save(file, "PNG")
        return self.client.upload_image(self.project, f"{shade}.png", file.getvalue())

    def event(self, payload: dict[str, Any], age: timedelta = timedelta()) -> int:
        """A delivery as the webhook route stores it; returns the event's id."""
        with self.sessions.begin() as session:
            row = Event(
                key=f"test {next(keys)}",
                action=payload["action"],
                payload=payload,
                received_at=now() - age,
            )
            session.add(row)
            session.flush()
            return row.id

    def handle(self, event_id: int) -> None:
        handle_event(self.runtime, event_id)

    def reconcile(self) -> ReconcileReport:
        return reconcile(self.runtime, self.project)

    def deliver(self) -> None:
        """Handle every delivery once, in the order of arrival."""
        for payload in self.deliveries():
            self.handle(self.event(payload))

    def deliveries(self) -> list[dict[str, Any]]:
        taken = list(self.handshake.deliveries)
        self.handshake.deliveries.clear()
        return taken

    def rows(self) -> set[tuple[int, int, str, str, bytes]]:
        with self.sessions() as session:
            found = session.execute(
                select(
                    Task.ls_task_id,
                    Annotation.ls_annotation_id,
                    Region.ls_region_id,
                    Region.label,
                    Region.mask,
                )
                .join(Annotation, Annotation.id == Region.annotation_id)
                .join(Task, Task.id == Annotation.task_id)
            )
            return {(row[0], row[1], row[2], row[3], row[4]) for row in found}

    def export(self) -> set[tuple[int, int, str, str, bytes]]:
        """The accepted masks of a fresh export, read without the code of sync."""
        answer = httpx.get(
            f"{self.client.url}/api/projects/{self.project}/export",
            params={"exportType": "JSON", "download_all_tasks": "true"},
            headers=self.client.auth_header(),
            timeout=30,
        ).raise_for_status()
        accepted = set()
        for task in answer.json():
            for annotation in task["annotations"]:
                for region in annotation["result"]:
                    mask = mask_of(region)
                    if annotation["was_cancelled"] or mask is None or not mask.any():
                        continue
                    accepted.add(
                        (task["id"], annotation["id"], region["id"], str(label_of(region)))
                        + (masks.to_png(mask),)
                    )
        return accepted

    def status(self, ls_task_id: int) -> str:
        with self.sessions() as session:
            row = session.scalars(select(Task).where(Task.ls_task_id == ls_task_id)).one()
            return row.status


keys = itertools.count()


@pytest.fixture(scope="module")
def handshake() -> Iterator[Handshake]:
    with Handshake() as server:
        yield server


@pytest.fixture
def loop(label_studio: LabelStudioServer, handshake: Handshake, tmp_path: Path) -> Iterator[Loop]:
    settings = Settings(
        home=tmp_path,
        label_studio=LabelStudioSettings(url=label_studio.url, token=SecretStr(label_studio.token)),
        backend=BackendSettings(url=handshake.url, password=SecretStr(PASSWORD)),
    )
    with Runtime(settings, migrate=True) as runtime, Annotator(settings.label_studio) as client:
        project = client.create_project("sync", default_label_config())
        connect(client, settings, project)
        handshake.deliveries.clear()
        yield Loop(runtime, client, project, handshake)


def test_each_webhook_brings_our_rows_to_what_label_studio_holds(loop: Loop) -> None:
    first, second = loop.task(1), loop.task(2)
    made = loop.client.create_annotation(
        first, [brush("a", square(2, 3, 9)), brush("b", square(20, 30, 5), "Other")], lead_time=7.5
    )
    loop.deliver()
    assert len(loop.rows()) == 2
    assert loop.rows() == loop.export()
    assert (loop.status(first), loop.status(second)) == ("accepted", "pool")
    with loop.sessions() as session:
        annotation = session.scalars(select(Annotation)).one()
        assert annotation.lead_time == 7.5
        assert annotation.annotator == "admin@example.com"
        assert all(
            event.problem is None and event.done_at for event in session.scalars(select(Event))
        )

    loop.client.update_annotation(
        made["id"], result=[brush("b", square(21, 31, 6)), brush("c", square(1, 1, 3))]
    )
    loop.deliver()
    assert {row[2] for row in loop.rows()} == {"b", "c"}
    assert loop.rows() == loop.export()

    loop.client.update_annotation(made["id"], was_cancelled=True)
    loop.deliver()
    assert loop.rows() == loop.export() == set()
    assert loop.status(first) == "skipped"

    loop.client.update_annotation(made["id"], was_cancelled=False)
    loop.deliver()
    assert loop.rows() == loop.export() != set()

    loop.client.delete_annotation(made["id"])
    loop.deliver()
    assert loop.rows() == loop.export() == set()
    assert loop.status(first) == "pool"

    loop.client.create_annotation(second, [brush("d", square(2, 3, 9))])
    loop.client.delete_task(second)
    loop.deliver()
    assert loop.rows() == loop.export() == set()
    assert loop.status(second) == "deleted"


def test_webhooks_twice_late_and_missing_then_reconcile_equal_a_fresh_export(loop: Loop) -> None:
    first, second, third = loop.task(1), loop.task(2), loop.task(3)
    one = loop.client.create_annotation(first, [brush("a", square(2, 3, 9))])
    loop.client.update_annotation(one["id"], result=[brush("a", square(4, 4, 9))])
    two = loop.client.create_annotation(second, [brush("b", square(5, 5, 5))])
    loop.client.delete_annotation(two["id"])
    loop.client.create_annotation(third, [brush("c", square(6, 6, 6))])
    deliveries = loop.deliveries()
    kinds = [delivery["action"] for delivery in deliveries]
    lost = {kinds.index("TASKS_CREATED"), kinds.index("ANNOTATIONS_DELETED"), len(kinds) - 1}
    kept = [delivery for at, delivery in enumerate(deliveries) if at not in lost]
    for payload in [*kept, *reversed(kept), kept[0]]:
        loop.handle(loop.event(payload))
    # Late webhooks change nothing, not even an update with an older mask.
    assert ("a", masks.to_png(square(4, 4, 9))) in {(row[2], row[4]) for row in loop.rows()}

    report = loop.reconcile()
    assert loop.rows() == loop.export()
    assert {row[2] for row in loop.rows()} == {"a", "c"}
    assert report.tasks == 3
    assert report.annotations_changed == 1
    assert report.problems == ()
    assert json.dumps(report.__dict__)  # a worker sends it on

    again = loop.reconcile()
    assert (again.tasks_new, again.annotations_changed, again.annotations_deleted) == (0, 0, 0)
    assert loop.rows() == loop.export()


def test_reconcile_alone_finds_everything(loop: Loop) -> None:
    first, second = loop.task(1), loop.task(2)
    made = loop.client.create_annotation(first, [brush("a", square(2, 3, 9))])
    report = loop.reconcile()
    assert (report.tasks_new, report.annotations_changed) == (2, 1)
    assert loop.rows() == loop.export() != set()

    loop.client.update_annotation(made["id"], result=[brush("a", square(9, 9, 9))])
    loop.client.create_annotation(second, [], was_cancelled=True)
    assert loop.reconcile().annotations_changed == 2
    assert loop.rows() == loop.export() != set()
    assert loop.status(second) == "skipped"

    loop.client.delete_annotation(made["id"])
    assert loop.reconcile().annotations_deleted == 1
    assert loop.rows() == loop.export() == set()

    loop.client.delete_task(first)
    assert loop.reconcile().tasks_deleted == 1
    assert loop.status(first) == "deleted"


def test_prompts_skipped_and_empty_masks_never_count(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    forgot, empty, mixed = loop.task(1), loop.task(2), loop.task(3)
    loop.client.create_annotation(forgot, [keypoint("p")])
    loop.client.create_annotation(empty, [brush("e", np.zeros((HEIGHT, WIDTH), np.bool_))])
    loop.client.create_annotation(mixed, [keypoint("q"), brush("m", square(3, 3, 3))])
    report = loop.reconcile()
    assert report.prompts_only == 1
    assert "not accepted with the tick" in caplog.text
    assert {row[2] for row in loop.rows()} == {"m"}
    assert loop.rows() == loop.export()
    assert loop.status(forgot) == "pool"


def test_a_region_that_stays_keeps_its_row(loop: Loop) -> None:
    task = loop.task()
    made = loop.client.create_annotation(task, [brush("a", square(2, 3, 9))])
    loop.deliver()
    with loop.sessions() as session:
        before = session.scalars(select(Region)).one()
    loop.client.update_annotation(
        made["id"], result=[brush("a", square(4, 4, 4)), brush("b", square(1, 1, 1))]
    )
    loop.deliver()
    with loop.sessions() as session:
        after = session.scalars(select(Region).where(Region.ls_region_id == "a")).one()
    assert (after.id, after.created_at) == (before.id, before.created_at)
    assert after.area == 16


def test_a_damaged_region_is_named_and_costs_no_other(loop: Loop) -> None:
    task = loop.task()
    broken = brush("x", square(2, 3, 9))
    broken["value"]["rle"] = broken["value"]["rle"][:6]
    loop.client.create_annotation(task, [broken, brush("a", square(2, 3, 9))])
    loop.deliver()
    assert {row[2] for row in loop.rows()} == {"a"}
    with loop.sessions() as session:
        problems = session.scalars(select(Event.problem).where(Event.problem.is_not(None))).all()
    assert len(problems) == 1
    assert problems[0] is not None
    assert problems[0].startswith("Region x: ")


def test_effort_is_read_from_the_click_log(loop: Loop) -> None:
    task = loop.task()
    loop.deliver()
    suggested, accepted = square(0, 0, 10), square(0, 0, 20)
    with loop.sessions() as session:
        row = session.scalars(select(Task)).one()
    image = loop.runtime.catalog.image_of(row).id
    with loop.sessions.begin() as session:
        version = ModelVersion(
            name="base", encoder="e", sha256="0" * 64, key="k", status="serving", snapshot_id=None
        )
        session.add(version)
        session.flush()
        clicks = [
            {"id": f"p{k}", "kind": "click", "positive": k != 1, "x": 1, "y": 1} for k in range(3)
        ]
        start = now()
        for k, mask in enumerate((suggested, square(0, 0, 15), accepted)):
            session.add(
                Interaction(
                    task_id=row.id,
                    image_id=image,
                    region_id="ours",
                    label="Object",
                    prompts=clicks[: k + 1],
                    model_version_id=version.id,
                    probability=b"",
                    rle=rle.encode(mask),
                    score=0.9,
                    milliseconds=500.0,
                    created_at=start + timedelta(seconds=4 * k),
                )
            )
    loop.client.create_annotation(task, [brush("ours", accepted), brush("by hand", accepted)])
    loop.deliver()
    with loop.sessions() as session:
        effort = session.scalars(select(Effort)).one()
        region = session.get_one(Region, effort.region_id)
    assert region.ls_region_id == "ours"
    assert region.interaction_id == 3
    assert (effort.clicks, effort.negative_clicks) == (3, 1)
    assert effort.seconds == pytest.approx(8.5)
    assert effort.first_iou == pytest.approx(100 / 400)
    assert effort.last_iou == 1.0


def test_an_image_that_is_none_is_told_and_tried_again(loop: Loop) -> None:
    (task,) = loop.client.import_tasks(
        loop.project, [{"data": {"image": "/data/local-files/?d=../secret.png"}}]
    )
    loop.client.create_annotation(task, [brush("a", square(2, 3, 9))])
    loop.deliveries()
    report = loop.reconcile()
    assert report.tasks_new == 1
    assert len(report.problems) == 1
    with loop.sessions() as session:
        row = session.scalars(select(Task)).one()
        assert row.problem == report.problems[0]
        assert row.reconciled_at is None
    # When the task shows an image, the next pass writes the mask.
    other = loop.client.task(loop.task())
    assert other is not None
    loop.client.update_task_data(task, other["data"])
    assert loop.reconcile().problems == ()
    assert loop.rows() == loop.export() != set()


def test_an_event_survives_a_label_studio_that_is_down(loop: Loop) -> None:
    task = loop.task()
    loop.client.create_annotation(task, [brush("a", square(2, 3, 9))])
    created = loop.deliveries()[-1]
    event = loop.event(created, age=timedelta(minutes=2))
    nowhere = LabelStudioSettings(url=f"http://127.0.0.1:{free_port()}", token=SecretStr("f" * 40))
    settings = loop.runtime.settings.model_copy(update={"label_studio": nowhere})
    with Runtime(settings) as down, pytest.raises(LabelStudioError, match="out of reach"):
        handle_event(down, event)
    with loop.sessions() as session:
        row = session.get_one(Event, event)
        assert row.done_at is None
        assert "out of reach" in (row.problem or "")
    assert loop.reconcile().events_finished == 1
    with loop.sessions() as session:
        row = session.get_one(Event, event)
        assert row.done_at is not None
        assert row.problem is None
    assert loop.rows() == loop.export() != set()


def test_an_event_that_never_works_is_given_up_in_the_end(loop: Loop) -> None:
    project = {"id": 999_999}
    payload = {"action": "TASKS_CREATED", "project": project, "tasks": [{"id": 1, "data": {}}]}
    fresh, old = loop.event(payload), loop.event(payload, age=timedelta(days=2))
    for event in (fresh, old):
        with pytest.raises(MaskloopError, match="has no project 999999"):
            loop.handle(event)
    with loop.sessions() as session:
        assert session.get_one(Event, fresh).attempts == 0  # Label Studio is to blame.
        assert [event.id for event in retries.quarantined_events(session, 5)] == [old]
        assert old not in events.overdue(session, now())


def test_an_event_that_is_to_blame_itself_is_tried_less_and_less_often(loop: Loop) -> None:
    event = loop.event({"action": "TASKS_CREATED", "tasks": [{}]})  # It names no project.
    for attempt in range(1, retries.MOST_ATTEMPTS + 1):
        with pytest.raises(KeyError):
            loop.handle(event)
        with loop.sessions.begin() as session:
            row = session.get_one(Event, event)
            assert row.attempts == attempt and row.try_at is not None
            assert event not in events.overdue(session, now() + timedelta(days=1))
            row.try_at = now()
            again = event in events.overdue(session, now() + timedelta(days=1))
            assert again is (attempt < retries.MOST_ATTEMPTS)
    with loop.sessions.begin() as session:
        retries.release(session, Event)
        assert event in events.overdue(session, now() + timedelta(days=1))


def test_unknown_things_are_told(loop: Loop) -> None:
    with pytest.raises(UnknownRecordError, match="no event 12345"):
        loop.handle(12345)
    with pytest.raises(LabelStudioError, match="has no project 424242"):
        reconcile(loop.runtime, 424242)
