from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import queue
from pipeline.settings import LabelStudioSettings, Settings
from workers.app import configuration, create_app
from workers.schedule import schedule


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path,
        redis_url="redis://127.0.0.1:1/0",
        label_studio=LabelStudioSettings(poll_seconds=7, project=1),
    )


def test_importing_reads_no_settings_and_no_torch() -> None:
    # The parent of a prefork worker imports these modules; torch would not survive the fork.
    code = (
        "import os, sys; os.environ['MASKLOOP_LOG_LEVEL'] = 'no such level'\n"
        "import workers.app, workers.tasks\n"
        "assert 'torch' not in sys.modules, 'torch is imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_task_name_has_a_task_and_every_task_a_queue(settings: Settings) -> None:
    app = create_app(settings)
    app.loader.import_default_modules()
    ours = {name for name in app.tasks if name.startswith("maskloop.")}
    assert ours == set(queue.QUEUES)
    for name in ours:
        assert app.amqp.router.route({}, name)["queue"].name == queue.QUEUES[name]


def test_messages_are_json_acknowledged_late_and_not_hoarded(settings: Settings) -> None:
    conf = create_app(settings).conf
    assert conf.broker_url == settings.redis_url
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json"])
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1


def test_sender_and_worker_agree_on_redis(settings: Settings) -> None:
    options = configuration(settings)["broker_transport_options"]
    seconds = queue.WORKER_SECONDS
    assert options == queue.transport_options(settings, socket_seconds=seconds)
    assert options["visibility_timeout"] == settings.workers.visibility_seconds


def test_the_schedule_follows_the_settings_and_never_piles_up(settings: Settings) -> None:
    plan = schedule(settings)
    assert plan["reconcile"]["schedule"] == 7
    assert plan["encode"]["task"] == queue.ENCODE_PROJECTS
    assert {entry["task"] for entry in plan.values()} <= set(queue.QUEUES)
    assert all(entry["options"]["expires"] <= entry["schedule"] for entry in plan.values())
