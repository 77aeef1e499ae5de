"""Two projects side by side: each gets its images encoded and its own rounds, and neither sees the
other's; a paused one rests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.labelstudio.regions import brush_region
from pipeline.labelstudio.template import default_label_config
from pipeline.labelstudio.types import RegionJson
from pipeline.masks.coded import CodedMask
from pipeline.queue import RECONCILE, SELECT_IF_DUE
from pipeline.record import projects, rounds, tasks
from pipeline.record.tables import Annotation, Region, Round, RoundItem, Task
from tests.annotator import Annotator, local_file_url
from tests.loop import Loop, disk_picture, make_loop
from tests.services.label_studio import LabelStudioServer, label_studio
from tests.services.redis import RedisServer, redis_server
from tests.services.worker import Worker, environment, wait_until

__all__ = ["label_studio", "redis_server"]

pytestmark = pytest.mark.integration

IMAGES = 4


@dataclass
class World:
    loop: Loop
    client: Annotator
    worker: Worker
    first: int
    second: int

    def wait(self, holds: object) -> None:
        wait_until(self.loop, holds, self.worker)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory,
    label_studio: LabelStudioServer,
    redis_server: RedisServer,
) -> Iterator[World]:
    loop = make_loop(
        tmp_path_factory.mktemp("projects"),
        redis_url=redis_server.url,
        label_studio={"url": label_studio.url, "token": label_studio.token},
        images={"files_root": label_studio.files},
        selection={"size": 2},
    )
    client = Annotator(loop.runtime.settings.label_studio)
    numbers = []
    for name in ("first", "second"):
        number = client.create_project(name, default_label_config())
        for seed in range(IMAGES):  # Both show the same images: they share embeddings.
            (label_studio.files / f"shared-{seed}.png").write_bytes(disk_picture(seed)[0])
        urls = [local_file_url(f"shared-{seed}.png") for seed in range(IMAGES)]
        client.import_tasks(number, [{"data": {"image": url}} for url in urls])
        with loop.runtime.sessions.begin() as session:
            projects.put(session, number, name)
        numbers.append(number)
    worker = Worker(loop, "events,encode,training")
    yield World(loop, client, worker, *numbers)
    worker.stop()
    client.close()
    loop.runtime.close()


def items(session: Session, project: int) -> list[tuple[int, int]]:
    """(number of the project of the task, Label Studio's number of the task) in its rounds."""
    rows = session.execute(
        select(Task.ls_project_id, Task.ls_task_id)
        .join(RoundItem, RoundItem.task_id == Task.id)
        .join(Round, Round.id == RoundItem.round_id)
        .where(Round.ls_project_id == project)
    )
    return [(row[0], row[1]) for row in rows]


def test_both_are_encoded_and_each_gets_a_round_of_its_own(world: World) -> None:
    world.loop.runtime.enqueuer.send(RECONCILE)
    world.wait(lambda session: len(session.query(Task).all()) == 2 * IMAGES)
    world.wait(lambda session: not tasks.to_encode(session))
    assert len(world.loop.images()) == IMAGES
    world.loop.runtime.enqueuer.send(SELECT_IF_DUE)
    for project in (world.first, world.second):
        world.wait(lambda session, p=project: written(session, p))
        with world.loop.runtime.sessions() as session:
            chosen = items(session, project)
            assert len(chosen) == 2
            assert {number for number, _ in chosen} == {project}


def written(session: Session, project: int) -> bool:
    newest = rounds.newest(session, project)
    return newest is not None and newest.written_at is not None


def test_a_mask_in_one_changes_nothing_in_the_other(world: World) -> None:
    with world.loop.runtime.sessions() as session:
        task = next(iter(tasks.of_project(session, world.first).values()))
        before = statuses(session, world.second)
    world.client.create_annotation(task.ls_task_id, [brush(disk_picture(0)[1])])
    world.loop.runtime.enqueuer.send(RECONCILE)
    world.wait(lambda session: session.query(Region).count() == 1)
    with world.loop.runtime.sessions() as session:
        assert session.get_one(Task, task.id).status == "accepted"
        assert statuses(session, world.second) == before
        assert {row.task_id for row in session.query(Annotation)} == {task.id}


def brush(mask: NDArray[np.bool_]) -> RegionJson:
    coded = CodedMask.of_mask(mask)
    return brush_region(
        region_id="r", mask=coded, label="Object", from_name="mask", to_name="image"
    )


def statuses(session: Session, project: int) -> dict[int, str]:
    return {number: row.status for number, row in tasks.of_project(session, project).items()}


def test_a_paused_project_rests_and_the_commands_say_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(world.loop).items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke
    assert run(app, ["projects", "pause", str(world.second)]).exit_code == 0
    listed = run(app, ["projects", "list"])
    assert "paused" in listed.stdout and "first" in listed.stdout
    for project in (world.first, world.second):
        world.client.import_tasks(project, [{"data": {"image": local_file_url("shared-0.png")}}])
    world.loop.runtime.enqueuer.send(RECONCILE)
    world.wait(lambda session: len(tasks.of_project(session, world.first)) == IMAGES + 1)
    with world.loop.runtime.sessions() as session:
        assert len(tasks.of_project(session, world.second)) == IMAGES
        assert projects.active(session, None) == [world.first]
    removed = run(app, ["projects", "remove", str(world.second)])
    assert removed.exit_code == 0, removed.output
    unknown = run(app, ["projects", "pause", "99999"])
    assert unknown.exit_code == 1
    assert "maskloop projects connect 99999" in str(unknown.exception)
