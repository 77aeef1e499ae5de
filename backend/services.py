"""What the routes need, built once when a process starts and closed when it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from backend.metrics import Metrics
from pipeline.database import make_sessions, upgrade
from pipeline.embeddings import Embeddings
from pipeline.errors import LabelStudioError
from pipeline.image_source import Auth, ImageSource
from pipeline.label_studio import LabelStudio
from pipeline.queue import Enqueuer
from pipeline.serving import ServingModel
from pipeline.settings import Settings
from pipeline.store import Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Services:
    """Shared by all threads of one process; nothing in here is needed from one request to the
    next, so any number of processes may answer."""

    settings: Settings
    sessions: sessionmaker[Session]
    store: Store
    source: ImageSource
    embeddings: Embeddings
    serving: ServingModel
    queue: Enqueuer
    metrics: Metrics
    decoding: threading.Lock  # decodes share the CPU's cores, so one after the other is fastest


@contextmanager
def open_services(settings: Settings, metrics: Metrics) -> Iterator[Services]:
    """Bring the database up to date, load the model that serves, and close all at the end.

    Raises:
        MaskloopError: the database, the store or the model cannot be used.
    """
    import torch

    if settings.model.threads:
        torch.set_num_threads(settings.model.threads)
    upgrade(settings)
    with ExitStack() as stack:
        sessions = make_sessions(settings)
        stack.callback(sessions.kw["bind"].dispose)
        store = Store(settings.store_address)
        queue = Enqueuer(settings)
        stack.callback(queue.close)
        services = Services(
            settings=settings,
            sessions=sessions,
            store=store,
            source=stack.enter_context(ImageSource(settings, _auth(settings, stack))),
            embeddings=Embeddings(sessions, store, settings),
            serving=ServingModel(sessions, store, settings, compiled=settings.model.compile),
            queue=queue,
            metrics=metrics,
            decoding=threading.Lock(),
        )
        version, _ = services.serving.current()
        log.info("Answering clicks with model version %s.", version.name)
        yield services


def _auth(settings: Settings, stack: ExitStack) -> Auth:
    if not settings.label_studio.token.get_secret_value():
        return _no_auth  # enough for images on this machine and on allowed hosts
    try:
        client = stack.enter_context(LabelStudio(settings.label_studio))
    except LabelStudioError as error:
        log.warning("Images are fetched from Label Studio without a token. %s", error)
        return _no_auth
    return client.auth_header


def _no_auth() -> Mapping[str, str]:
    return {}
