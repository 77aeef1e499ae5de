"""maskloop's own services: how each is started on this machine and checked for readiness."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from pipeline.queue import ENCODE_QUEUE, EVENTS_QUEUE, TRAINING_QUEUE
from pipeline.record import heartbeats
from pipeline.record.engine import make_reader, sessions_on
from pipeline.settings import HOME_VARIABLE, Settings
from pipeline.stack.foundations import MONGOD, REDIS
from pipeline.stack.service import ALIVE_SECONDS, READY_SECONDS, Service, answers, folder_of

BEAT_HUNG_SECONDS = 10  # after its last heartbeat is too old
START_SECONDS = 180  # limit for a service that hangs; a dead one is noticed at once

# Settings for processes with many threads and torch; the caller's environment overrides them.
THREADS = {
    # By default, torch's threads keep a core busy while they wait. Other processes always run here,
    # so the threads would take cores from each other, and an encode would take fifty times as long.
    "OMP_WAIT_POLICY": "passive",
    # glibc gives threads separate heaps, and each heap keeps the most memory it ever needed.
    "MALLOC_ARENA_MAX": "2",
}

BACKEND = "backend"
WORKER = "worker"
TRAINER = "trainer"
BEAT = "beat"
FIFTYONE = "FiftyOne"


def backend_service(settings: Settings) -> Service:
    """The ML backend Label Studio sends each click to."""
    own = settings.backend
    url = f"http://{own.host}:{own.port}"
    return Service(
        name=BACKEND,
        command=[
            sys.executable, "-m", "uvicorn", "--factory", "backend.http.app:create_app",
            "--host", own.host, "--port", str(own.port),
        ],
        ready=answers(f"{url}/ready", (own.user, own.password.get_secret_value())),
        alive=answers(f"{url}/health", seconds=ALIVE_SECONDS),
        environment=_our_environment(settings),
        core=True,
        start_seconds=START_SECONDS,
        port=own.port,
        port_setting="backend.port and backend.url",
    )  # fmt: skip


def worker_service(settings: Settings) -> Service:
    """The Celery worker for events and images."""
    return _worker(settings, WORKER, f"{EVENTS_QUEUE},{ENCODE_QUEUE}")


def trainer_service(settings: Settings) -> Service:
    """A separate Celery worker for long jobs, so that no image or event waits for them."""
    return _worker(settings, TRAINER, TRAINING_QUEUE)


def beat_service(settings: Settings) -> Service:
    """The schedule, in a process of its own, so that a dead worker does not end it."""
    path = folder_of(settings, "celery") / "schedule"
    sessions = sessions_on(make_reader(settings))

    def alive() -> bool:
        with sessions() as session:
            seconds = heartbeats.age(session, heartbeats.SCHEDULE)
        return seconds is not None and seconds < 3 * heartbeats.BEAT_SECONDS

    return Service(
        name=BEAT,
        command=[
            sys.executable, "-m", "celery", "-A", "workers.app", "beat",
            "--schedule", str(path), "--pidfile=", "--loglevel", settings.log_level,
        ],
        ready=alive,
        environment=_our_environment(settings),
        start_seconds=START_SECONDS,
        hung_seconds=BEAT_HUNG_SECONDS,
    )  # fmt: skip


def fiftyone_service(settings: Settings) -> Service:
    """The FiftyOne App."""
    own = settings.fiftyone
    url, login = f"http://{own.host}:{own.port}/fiftyone", settings.fiftyone_login
    return Service(
        name=FIFTYONE,
        command=[sys.executable, "-m", "pipeline.mirror.app"],
        ready=answers(url, login),
        alive=answers(url, login, seconds=ALIVE_SECONDS),
        environment=_our_environment(settings),
        optional=True,
        needs=(MONGOD,),
        start_seconds=START_SECONDS,
        stop_seconds=5,
        port=own.port,
        port_setting="fiftyone.port",
    )


def _worker(settings: Settings, name: str, queues: str) -> Service:
    node = f"{name}@maskloop"

    def answers_within(seconds: float) -> bool:
        transport = {"socket_connect_timeout": seconds, "socket_timeout": seconds}
        with Celery(broker=settings.redis_url, set_as_current=False) as app:
            app.conf.broker_transport_options = transport
            try:
                return bool(app.control.ping(destination=[node], timeout=seconds))
            except (OperationalError, RedisError, OSError):
                return False

    return Service(
        name=name,
        command=[
            sys.executable, "-m", "celery", "-A", "workers.app", "worker",
            "--hostname", node, "--queues", queues, "--concurrency", "1",
            "--loglevel", settings.log_level,
        ],
        ready=partial(answers_within, READY_SECONDS),
        alive=partial(answers_within, ALIVE_SECONDS),
        environment=_our_environment(settings),
        needs=(REDIS,),
        start_seconds=START_SECONDS,
    )  # fmt: skip


def _our_environment(settings: Settings) -> Mapping[str, str]:
    return {
        HOME_VARIABLE: str(settings.home),
        "PYTHONUNBUFFERED": "1",  # a dying process must not lose its last log line
        **{name: os.environ.get(name, value) for name, value in THREADS.items()},
    }
