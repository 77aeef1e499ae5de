"""The objects that the routes need, created when a process starts and closed when it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from backend.process.metrics import Metrics
from backend.process.network import Network
from backend.process.outbox import Outbox
from backend.process.page_notice import PageNotice
from backend.process.region_masks import RegionMasks, SentRegions
from backend.process.supersede import Latest
from backend.process.warming import Warming
from pipeline.runtime import Runtime
from pipeline.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Services:
    """The runtime, and what only answering clicks needs. All threads of one process share it. No
    request depends on what an earlier one left in it, so any number of processes may answer."""

    runtime: Runtime
    metrics: Metrics
    network: Network
    warming: Warming
    outbox: Outbox
    page_notice: PageNotice
    latest: Latest = field(default_factory=Latest)
    region_masks: RegionMasks = field(default_factory=RegionMasks)
    sent_regions: SentRegions = field(default_factory=SentRegions)

    @property
    def settings(self) -> Settings:
        return self.runtime.settings


@contextmanager
def open_services(settings: Settings, metrics: Metrics) -> Iterator[Services]:
    """Bring the database up to date, load the serving model, and close everything at the end.

    Raises:
        MaskloopError: the database, the store or the model cannot be used.
    """
    network = Network()
    compiled = settings.model.compile
    runtime = Runtime(settings, migrate=True, encode=network.encode, compiled=compiled)
    with ExitStack() as stack:
        stack.enter_context(runtime)
        stack.callback(network.close)
        if not settings.backend.password.get_secret_value():
            log.warning(
                "The backend asks for no password: everyone who can reach %s:%d can read and write "
                "its tasks. Set backend.password and run `maskloop connect`.",
                settings.backend.host,
                settings.backend.port,
            )
        if not runtime.has_token:
            log.warning(
                "Images are fetched from Label Studio without a token, and no draft can be read; "
                "set label_studio.token."
            )
        # These are closed before the runtime.
        warming = stack.enter_context(Warming(runtime))
        outbox = stack.enter_context(Outbox(runtime, metrics))
        services = Services(runtime, metrics, network, warming, outbox, PageNotice(runtime))
        # Create these now, so that the first threads do not create them at the same time.
        _ = runtime.catalog, runtime.embeddings, runtime.enqueuer
        if runtime.has_token:
            _ = runtime.label_studio
        version, _ = runtime.serving.current()
        log.info("Answering clicks with model version %s.", version.name)
        yield services
