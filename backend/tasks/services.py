"""What the routes need, built once when a process starts and closed when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from backend.click.region_masks import Drawings, Sent
from backend.click.supersede import Latest
from backend.http.metrics import Metrics
from backend.tasks.network import Network
from backend.tasks.page_notice import Standing
from backend.tasks.warming import Parts, Warming
from pipeline.embeddings.tiers import Embeddings
from pipeline.errors import LabelStudioError
from pipeline.images.source import ImageSource
from pipeline.labelstudio.client import LabelStudio
from pipeline.queue import Enqueuer
from pipeline.record.engine import make_sessions, upgrade
from pipeline.registry.serving import ServingModel
from pipeline.settings import Settings
from pipeline.storage.store import Store

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
    label_studio: LabelStudio | None  # None: no token to call it with
    network: Network
    latest: Latest
    warming: Warming
    drawings: Drawings
    sent: Sent
    standing: Standing


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
        client = _label_studio(settings, stack)
        auth = _no_auth if client is None else client.auth_header
        source = stack.enter_context(ImageSource(settings, auth))
        network = Network()
        stack.callback(network.close)
        embeddings = Embeddings(sessions, store, settings, network.encode)
        serving = ServingModel(sessions, store, settings, compiled=settings.model.compile)
        warming = Warming(Parts(settings, sessions, store, source, embeddings, serving))
        services = Services(
            settings=settings,
            sessions=sessions,
            store=store,
            source=source,
            embeddings=embeddings,
            serving=serving,
            queue=queue,
            metrics=metrics,
            label_studio=client,
            network=network,
            latest=Latest(),
            warming=warming,
            drawings=Drawings(),
            sent=Sent(),
            standing=Standing(sessions, serving),
        )
        stack.callback(warming.close)  # before what it works with
        version, _ = services.serving.current()
        log.info("Answering clicks with model version %s.", version.name)
        yield services


def _label_studio(settings: Settings, stack: ExitStack) -> LabelStudio | None:
    if not settings.label_studio.token.get_secret_value():
        return None  # enough for images on this machine and on allowed hosts
    try:
        return stack.enter_context(LabelStudio(settings.label_studio))
    except LabelStudioError as error:
        log.warning("Images are fetched from Label Studio without a token. %s", error)
        return None


def _no_auth() -> Mapping[str, str]:
    return {}
