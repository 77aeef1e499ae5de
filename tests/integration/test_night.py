"""A night of the loop without people: Label Studio, Redis and a worker, all real."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from pipeline import queue
from pipeline.images.catalog import split_of
from pipeline.labelstudio.config import read_label_config
from pipeline.labelstudio.regions import brush_region
from pipeline.labelstudio.template import default_label_config
from pipeline.masks.coded import CodedMask
from pipeline.queue import Enqueuer
from pipeline.record import versions
from pipeline.record.tables import Embedding, GateDecision, Region, Round, Task
from pipeline.runtime import Runtime
from pipeline.settings import LabelStudioSettings
from tests.annotator import Annotator
from tests.loop import Loop, disk_picture, tiny_settings
from tests.services.label_studio import LabelStudioServer, label_studio
from tests.services.redis import RedisServer, redis, redis_server
from tests.services.worker import Worker, wait_until

__all__ = ["label_studio", "redis", "redis_server"]  # fixtures

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TRAIN, HOLDOUT, POOL = 8, 4, 6
ROUND_SIZE = 4


@dataclass
class Night:
    """The loop with its worker, and the masks that the annotators would accept."""

    loop: Loop
    client: Annotator
    project: int
    worker: Worker
    masks: dict[int, np.ndarray]  # Label Studio's task id -> bool [H, W]; pool tasks are not here

    @property
    def send(self) -> Enqueuer:
        return self.loop.runtime.enqueuer


def pictures() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """The wanted number of pictures of each split, which depends on their bytes."""
    wanted = {"train": TRAIN, "holdout": HOLDOUT, "pool": POOL}
    for seed in range(1000):
        data, mask = disk_picture(seed)
        kind = split_of(sha256(data).hexdigest(), 0.2)
        kind = kind if wanted[kind] else "pool"
        if wanted[kind]:
            wanted[kind] -= 1
            yield kind, data, mask
        if not any(wanted.values()):
            return


@pytest.fixture
def night(tmp_path: Path, redis: RedisServer, label_studio: LabelStudioServer) -> Iterator[Night]:
    account = LabelStudioSettings(url=label_studio.url, token=label_studio.token)
    client = Annotator(account)
    project = client.create_project("Night", default_label_config())
    masks = {}
    for number, (kind, data, mask) in enumerate(pictures()):
        task = client.upload_image(project, f"{number}.png", data)
        if kind != "pool":
            masks[task] = mask
    settings = tiny_settings(
        tmp_path,
        redis_url=redis.url,
        label_studio=account.model_copy(update={"project": project}),
        finetune={"steps": 60, "learning_rate": 3e-3},
        selection={"size": ROUND_SIZE},
    )
    loop = Loop(Runtime(settings, migrate=True))
    worker = Worker(loop, "events,encode,training")
    yield Night(loop, client, project, worker, masks)
    worker.stop()
    client.close()


def test_accepted_masks_become_a_better_model_and_the_next_round(night: Night) -> None:
    sessions = night.loop.runtime.sessions
    everything = TRAIN + HOLDOUT + POOL

    # No webhook reported the tasks, so reconcile finds them and sends them to be encoded.
    night.send.send(queue.RECONCILE)
    wait_until(
        night.loop, lambda session: session.query(Embedding).count() == everything, night.worker
    )

    label = read_label_config(default_label_config()).labels[0]
    for task, mask in night.masks.items():
        region = brush_region(
            region_id=f"region{task}",
            mask=CodedMask.of_mask(mask),
            label=label,
            from_name="mask",
            to_name="image",
        )
        night.client.create_annotation(task, [region])
    night.send.send(queue.RECONCILE)
    wait_until(
        night.loop, lambda session: session.query(Region).count() == len(night.masks), night.worker
    )

    night.send.send(queue.FINETUNE_IF_DUE)
    wait_until(night.loop, lambda session: session.query(GateDecision).count() == 1, night.worker)
    with sessions() as session:
        decision = session.query(GateDecision).one()
        assert decision.promoted, decision.reason
        serving = versions.serving(session)
        assert serving is not None
        assert serving.id == decision.candidate_id

    # The promotion started a round; Label Studio gives its first task.
    wait_until(
        night.loop,
        lambda session: session.query(Round).filter(Round.written_at.is_not(None)).count() == 1,
        night.worker,
    )
    with sessions() as session:
        queued = {row.ls_task_id for row in session.query(Task).filter_by(status="queued")}
    assert len(queued) == ROUND_SIZE
    assert not queued & set(night.masks)
    assert night.client.next_task(night.project) in queued
