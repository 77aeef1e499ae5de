"""The network that serves, in a process that answers: it follows promotions by itself."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from model.errors import MaskloopError
from pipeline.record.tables import ModelVersion
from pipeline.record.versions import serving
from pipeline.registry.base import ensure_base, load_to_serve
from pipeline.settings import Settings
from pipeline.storage.store import Store

if TYPE_CHECKING:  # torch takes seconds to import
    from model.network.segnext import SegNext

log = logging.getLogger(__name__)

CHECK_EVERY = 1.0  # seconds between two looks at which version serves
RETRY_AFTER = 60.0  # seconds before weights that could not be loaded are tried again


class ServingModel:
    """The version that serves and its network, swapped between two calls of ``current``.

    Safe to share between threads. While one thread loads a new version, the others go on with
    the old one; a version that cannot be loaded never replaces one that works.

    Args:
        compiled: compile a network, and warm it up, before it serves; the one before it answers
            meanwhile.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: Store,
        settings: Settings,
        *,
        compiled: bool = False,
    ) -> None:
        self._sessions = sessions
        self._store = store
        self._settings = settings
        self._compiled = compiled
        self._lock = threading.Lock()
        self._held: tuple[ModelVersion, SegNext] | None = None
        self._looked = 0.0  # monotonic seconds
        self._faulty: tuple[int, float] | None = None  # version id, and when it failed to load

    def current(self) -> tuple[ModelVersion, SegNext]:
        """The version that serves (detached from any session) and its network.

        Raises:
            CheckpointError: there is no version that can be loaded, and none was held before.
        """
        held = self._held
        if held is None:
            with self._lock:
                if self._held is None:
                    self._held = self._first()
                    self._looked = time.monotonic()
                return self._held
        if time.monotonic() - self._looked >= CHECK_EVERY and self._lock.acquire(blocking=False):
            if self._compiled:  # which takes minutes, while somebody waits for an answer
                threading.Thread(target=self._follow, args=(held,), daemon=True).start()
            else:
                self._follow(held)
        return self._held or held

    def _first(self) -> tuple[ModelVersion, SegNext]:
        with self._sessions.begin() as session:
            version = serving(session)
            if version is None:
                ensure_base(session, self._store, self._settings)
                version = serving(session)
            assert version is not None  # ensure_base promotes when nothing serves
            session.expunge(version)
        return version, self._load(version)

    def _load(self, version: ModelVersion) -> SegNext:
        from model.inference import precision

        model = load_to_serve(version, self._store, self._settings)
        if self._compiled:
            log.info("Compiling %s; it takes minutes.", version.name)
            precision.compile_and_warm(model)
        return model

    def _follow(self, held: tuple[ModelVersion, SegNext]) -> None:
        """Change to the version that serves now; called with the lock held, which it releases."""
        try:
            self._change(held)
        finally:
            self._looked = time.monotonic()
            self._lock.release()

    def _change(self, held: tuple[ModelVersion, SegNext]) -> None:
        wanted: int | None = None
        try:
            with self._sessions() as session:
                served = select(ModelVersion.id).where(ModelVersion.status == "serving")
                wanted = session.scalars(served).first()
                if wanted is None or wanted == held[0].id or self._is_faulty(wanted):
                    return
                version = session.get_one(ModelVersion, wanted)
                session.expunge(version)
            self._held = version, self._load(version)
            self._faulty = None
            log.info("Now serving model version %s instead of %s.", version.name, held[0].name)
        except SQLAlchemyError as error:
            log.warning("Cannot ask which version serves, %s stays: %s", held[0].name, error)
        except MaskloopError as error:
            if wanted is not None:
                self._faulty = wanted, time.monotonic()
            log.error("%s stays in service. %s", held[0].name, error)

    def _is_faulty(self, version_id: int) -> bool:
        if self._faulty is None:
            return False
        faulty, since = self._faulty
        return faulty == version_id and time.monotonic() - since < RETRY_AFTER
