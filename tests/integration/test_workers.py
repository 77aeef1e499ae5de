"""A real Celery worker, a real Redis, SQLite: the loop without Label Studio."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from model.checkpoints import files as checkpoints
from pipeline import queue
from pipeline.images.catalog import task_row
from pipeline.record import versions
from pipeline.record.tables import Embedding, GateDecision, Job, Task
from pipeline.registry.serving import CHECK_EVERY
from pipeline.registry.weights import read_weights
from tests.loop import Loop, disk_picture, make_loop, tiny_model
from tests.services.redis import RedisServer, redis, redis_server
from tests.services.worker import Worker, wait_until

__all__ = ["redis", "redis_server"]  # fixtures

pytestmark = [pytest.mark.integration, pytest.mark.slow]

VISIBLE_AFTER = 4  # seconds until a dead worker's message is delivered again


@pytest.fixture
def loop(tmp_path: Path, redis: RedisServer, request: pytest.FixtureRequest) -> Loop:
    files = tmp_path / "files"
    files.mkdir()
    return make_loop(
        tmp_path,
        redis_url=redis.url,
        images={"files_root": files},
        label_studio={"token": "unused"},
        workers={"visibility_seconds": VISIBLE_AFTER},
        finetune=getattr(request, "param", {}),
    )


@pytest.fixture
def start(loop: Loop) -> Iterator[Callable[[str], Worker]]:
    workers: list[Worker] = []

    def start_worker(queues: str) -> Worker:
        workers.append(Worker(loop, queues))
        return workers[-1]

    yield start_worker
    for worker in workers:
        worker.stop()


def add_task(loop: Loop, number: int, name: str) -> int:
    with loop.runtime.sessions.begin() as session:
        row = task_row(session, 1, number, f"/data/local-files/?d={name}")
        session.flush()
        return row.id


def judged(session: Session) -> bool:
    return session.query(GateDecision).count() == 1


def training(session: Session) -> bool:
    row = session.query(Job).filter_by(kind="finetune", status="running").first()
    return row is not None and row.done > 8  # the embeddings are done, and training has begun


def test_images_are_encoded_once_and_a_bad_one_says_why(
    loop: Loop, start: Callable[[str], Worker]
) -> None:
    files = loop.runtime.settings.images.files_root
    assert files is not None
    (files / "good.png").write_bytes(disk_picture(1)[0])
    (files / "bad.png").write_bytes(b"no image")
    rows = {
        name: add_task(loop, n, f"{name}.png") for n, name in enumerate(("bad", "gone", "good"))
    }
    away = add_task(loop, 9, "../../etc/passwd")
    worker = start("events,encode")
    for row in (*rows.values(), away, rows["good"], 12345):
        loop.runtime.enqueuer.send(queue.ENCODE_TASK, row)
    wait_until(loop, lambda session: session.query(Embedding).count() == 1, worker)
    wait_until(loop, lambda _: "no task row 12345" in worker.log.read_text(), worker)
    with loop.runtime.sessions() as session:
        assert session.query(Embedding).count() == 1
        problems = {task.id: task.problem for task in session.query(Task)}
    assert problems[rows["good"]] is None
    assert all(problems[row] for row in (rows["bad"], rows["gone"], away))
    assert "Traceback" not in worker.log.read_text()


@pytest.mark.parametrize("loop", [{"steps": 60, "learning_rate": 3e-3}], indirect=True)
def test_accepted_masks_become_a_served_version_without_a_restart(
    loop: Loop, start: Callable[[str], Worker]
) -> None:
    serving = loop.runtime.serving
    assert serving.current()[0].name == "base"
    worker = start("events,training")
    loop.runtime.enqueuer.send(queue.FINETUNE_IF_DUE)
    loop.accept_many(8, 4)
    loop.runtime.enqueuer.send(queue.FINETUNE_IF_DUE)
    wait_until(loop, judged, worker)
    with loop.runtime.sessions() as session:
        decision = session.query(GateDecision).one()
        assert decision.promoted, decision.reason
    deadline = time.monotonic() + 2 * CHECK_EVERY
    while serving.current()[0].name == "base":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # The same regions again: there is nothing to do, and nothing changes.
    loop.runtime.enqueuer.send(queue.FINETUNE, True)
    wait_until(loop, lambda _: "judged before" in worker.log.read_text(), worker)
    with loop.runtime.sessions() as session:
        assert judged(session)


@pytest.mark.parametrize("loop", [{"steps": 150}], indirect=True)
@pytest.mark.parametrize("whole", [False, True], ids=["child", "worker"])
def test_kill_9_in_the_middle_of_a_fine_tune_loses_nothing(
    loop: Loop, start: Callable[[str], Worker], whole: bool
) -> None:
    loop.accept_many(4, 3)
    worker = start("training")
    loop.runtime.enqueuer.send(queue.FINETUNE, True)
    wait_until(loop, training, worker)
    if whole:
        worker.kill_all()
        worker = start("training")
    else:
        with loop.runtime.sessions() as session:
            owner = session.query(Job).one().owner
        assert owner is not None
        os.kill(int(owner.rpartition(":")[2]), signal.SIGKILL)
    wait_until(loop, judged, worker)
    wait_until(loop, lambda s: s.query(Job).filter_by(status="running").count() == 0, worker)
    with loop.runtime.sessions() as session:
        jobs = session.query(Job).order_by(Job.id).all()
        assert [row.status for row in jobs] == ["failed", "done"]
        assert "without a word" in (jobs[0].message or "")
        assert versions.serving(session) is not None
    assert json.dumps(jobs[1].result)


def test_a_version_of_another_encoder_is_promoted_once_every_image_is_encoded(
    loop: Loop, start: Callable[[str], Worker], tmp_path: Path
) -> None:
    loop.accept_many(2, 1)
    checkpoints.save(tiny_model(3), tmp_path / "other.safetensors")
    weights = read_weights(tmp_path / "other.safetensors")
    loop.runtime.registry.ensure_base()
    added = loop.runtime.registry.add(weights, name="other")
    worker = start("training")
    loop.runtime.enqueuer.send(queue.PROMOTE, "other")

    def serves(session: Session) -> bool:
        version = versions.serving(session)
        return version is not None and version.name == "other"

    wait_until(loop, serves, worker)
    with loop.runtime.sessions() as session:
        assert session.query(Embedding).filter_by(encoder=added.encoder).count() == 3
