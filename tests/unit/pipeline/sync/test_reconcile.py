"""Reconcile against what no real Label Studio does when asked: a listing that misses a task, a
task and an event that nothing can be made of. The rest is in ``tests/integration/test_sync.py``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.labelstudio.client import RemoteTask
from pipeline.labelstudio.regions import brush_region
from pipeline.labelstudio.template import default_label_config
from pipeline.masks.coded import CodedMask
from pipeline.record import heartbeats
from pipeline.record.tables import Event, Region, Task, now
from pipeline.sync.reconcile import ReconcileReport, reconcile
from tests.loop import Loop, disk_picture, make_loop

PROJECT = 1
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


class Remote:
    """A Label Studio in memory: task id to its annotations."""

    url = "http://label-studio.example"

    def __init__(self) -> None:
        self.held: dict[int, list[dict[str, Any]]] = {}
        self.unlisted: set[int] = set()
        self.uncounted: set[int] = set()  # tasks whose counters miss their annotations

    def project(self, _: int) -> dict[str, Any]:
        return {
            "label_config": default_label_config(),
            "total_annotations_number": sum(map(len, self.held.values())),
            "skipped_annotations_number": 0,
        }

    def tasks(self, _: int) -> Iterator[RemoteTask]:
        for number in self.held.keys() - self.unlisted:
            data = {"image": f"/data/local-files/?d={number}.png"}
            count = 0 if number in self.uncounted else len(self.held[number])
            yield RemoteTask(number, data, MOMENT, count)

    def task(self, number: int) -> dict[str, Any] | None:
        return {"id": number, "data": {}} if number in self.held else None

    def annotations(self, number: int) -> list[dict[str, Any]]:
        return self.held[number]


def annotation(number: int, **region: Any) -> dict[str, Any]:
    mask = disk_picture(number)[1]
    made = brush_region(
        region_id=f"r{number}",
        mask=CodedMask.of_mask(np.asarray(mask)),
        label="Object",
        from_name="mask",
        to_name="image",
    )
    return {"id": number, "result": [{**made, **region}], "updated_at": MOMENT.isoformat()}


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    for number in range(1, 4):
        (tmp_path / f"{number}.png").write_bytes(disk_picture(number)[0])
    return make_loop(tmp_path, images={"files_root": tmp_path})


def run(loop: Loop, remote: Remote) -> ReconcileReport:
    vars(loop.runtime)["label_studio"] = remote
    return reconcile(loop.runtime, PROJECT)


def regions(loop: Loop) -> list[str]:
    with loop.runtime.sessions() as session:
        return sorted(region.ls_region_id for region in session.query(Region))


def test_a_task_that_slipped_between_two_pages_keeps_its_masks(loop: Loop, remote: Remote) -> None:
    remote.held = {number: [annotation(number)] for number in (1, 2)}
    run(loop, remote)
    remote.unlisted = {2}
    assert run(loop, remote).tasks_deleted == 0
    assert regions(loop) == ["r1", "r2"]
    del remote.held[2]
    assert run(loop, remote).tasks_deleted == 1
    assert regions(loop) == ["r1"]


def test_a_task_that_comes_back_brings_its_masks(loop: Loop, remote: Remote) -> None:
    remote.held = {1: [annotation(1)]}
    run(loop, remote)
    kept, remote.held = remote.held, {}
    run(loop, remote)
    assert regions(loop) == []
    remote.held = kept  # restored from a backup: nothing about it moved
    remote.held[1][0]["updated_at"] = MOMENT.isoformat()
    run(loop, remote)
    assert regions(loop) == ["r1"]
    with loop.runtime.sessions() as session:
        assert session.query(Task).one().status == "accepted"


def test_neither_a_strange_task_nor_a_strange_event_stops_the_others(
    loop: Loop, remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    remote.held = {number: [annotation(number)] for number in (1, 2, 3)}
    del remote.held[2][0]["updated_at"]
    with loop.runtime.sessions.begin() as session:
        received = now() - timedelta(hours=1)
        session.add(Event(key="k", action="TASKS_CREATED", payload={}, received_at=received))
    report = run(loop, remote)
    assert regions(loop) == ["r1", "r3"]
    assert [("Event" in each, "unexpected" in each) for each in report.problems] == [
        (True, True),
        (False, True),
    ]
    assert "KeyError" in caplog.text


def test_a_region_without_an_id_counts(loop: Loop, remote: Remote) -> None:
    remote.held = {1: [annotation(1, id=None)]}
    assert run(loop, remote).problems == ()
    assert regions(loop) == ["#0"]


@pytest.mark.parametrize("counted", [True, False])
def test_a_mask_is_found_although_label_studio_died_before_it_changed_the_task(
    loop: Loop, remote: Remote, counted: bool
) -> None:
    remote.held = {1: [], 2: []}
    run(loop, remote)
    remote.held[1] = [annotation(1)]  # The time of the task stays as it was.
    remote.uncounted = set() if counted else {1}
    assert run(loop, remote).annotations_changed == 1
    assert regions(loop) == ["r1"]
    assert run(loop, remote).annotations_changed == 0


def test_a_pass_over_every_task_is_rare(loop: Loop, remote: Remote) -> None:
    remote.held, remote.uncounted = {1: [annotation(1)]}, {1}
    del remote.held[1][0]["updated_at"]  # It can never be read, so the counts stay apart.
    asked: list[int] = []
    look = remote.annotations
    remote.annotations = lambda number: asked.append(number) or look(number)  # type: ignore[method-assign, func-returns-value]
    run(loop, remote)
    with loop.runtime.sessions() as session:
        first, count = dict(heartbeats.ages(session)), len(asked)
    run(loop, remote)
    with loop.runtime.sessions() as session:
        assert heartbeats.ages(session).keys() == first.keys()
    assert len(asked) == count
