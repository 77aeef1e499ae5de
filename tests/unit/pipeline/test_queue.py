from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ServiceError
from pipeline.queue import MIRROR, QUEUES, TRAINING_QUEUE, Enqueuer
from pipeline.settings import Settings


def test_only_long_tasks_wait_behind_a_fine_tune() -> None:
    long = {name for name in QUEUES if QUEUES[name] == TRAINING_QUEUE}
    names = ("finetune", "select", "select_if_due", "mirror", "promote")
    assert long == {f"maskloop.{name}" for name in names}


def test_without_redis_sending_is_one_sentence_and_shows_no_password(tmp_path: Path) -> None:
    enqueuer = Enqueuer(Settings(home=tmp_path, redis_url="redis://:secret@127.0.0.1:1/0"))
    for ask in (lambda: enqueuer.send(MIRROR, 1), enqueuer.waiting):
        with pytest.raises(ServiceError, match="127.0.0.1:1/0 is out of reach") as caught:
            ask()
        assert "secret" not in str(caught.value)
    enqueuer.close()
