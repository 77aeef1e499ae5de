"""The serving network of a process that answers clicks; it follows promotions automatically."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from model.errors import MaskloopError
from pipeline.record import versions
from pipeline.record.tables import ModelVersion
from pipeline.registry.registry import Registry

if TYPE_CHECKING:  # torch takes seconds to import
    from model.network.segnext import SegNext

log = logging.getLogger(__name__)

CHECK_EVERY = 1.0  # seconds between two checks of which version serves
RETRY_AFTER = 60.0  # seconds before weights that could not be loaded are tried again


class ServingModel:
    """The serving version and its network, which may change between two calls of ``current``.

    Threads may share it. While one thread loads a new version, the others keep using the old one;
    a version that cannot be loaded never replaces one that works.

    Args:
        compiled: compile a network, and warm it up, before it serves; the former network answers
            meanwhile.
    """

    def __init__(self, registry: Registry, *, compiled: bool = False) -> None:
        self._registry = registry
        self._compiled = compiled
        self._lock = threading.Lock()
        self._held: tuple[ModelVersion, SegNext] | None = None
        self._looked = 0.0  # monotonic seconds
        self._faulty: tuple[int, float] | None = None  # version id, and when it failed to load

    def current(self) -> tuple[ModelVersion, SegNext]:
        """The serving version (detached from any session) and its network.

        Raises:
            CheckpointError: no version can be loaded, and none was loaded before.
        """
        held = self._held
        if held is None:
            with self._lock:
                if self._held is None:
                    self._held = self._first()
                    self._looked = time.monotonic()
                return self._held
        if time.monotonic() - self._looked >= CHECK_EVERY and self._lock.acquire(blocking=False):
            if self._compiled:  # This takes minutes, and an annotator waits.
                threading.Thread(target=self._follow, args=(held,), daemon=True).start()
            else:
                self._follow(held)
        return self._held or held

    def _first(self) -> tuple[ModelVersion, SegNext]:
        with self._registry.sessions() as session:
            version = versions.serving(session)
        if version is None:
            self._registry.ensure_base()
            with self._registry.sessions() as session:
                version = versions.serving(session)
        assert version is not None  # ensure_base promotes when nothing serves
        return version, self._load(version)

    def _load(self, version: ModelVersion) -> SegNext:
        from model.inference import precision

        model = self._registry.load_to_serve(version)
        if self._compiled:
            log.info("Compiling %s; it takes minutes.", version.name)
            precision.compile_and_warm(model)
        return model

    def _follow(self, held: tuple[ModelVersion, SegNext]) -> None:
        """Change to the version that serves now. The caller holds the lock; this releases it."""
        try:
            self._change(held)
        finally:
            self._looked = time.monotonic()
            self._lock.release()

    def _change(self, held: tuple[ModelVersion, SegNext]) -> None:
        wanted: int | None = None
        try:
            with self._registry.sessions() as session:
                wanted = versions.serving_id(session)
                if wanted is None or wanted == held[0].id or self._is_faulty(wanted):
                    return
                version = session.get_one(ModelVersion, wanted)
            self._held = version, self._load(version)
            self._faulty = None
            log.info("Now serving model version %s instead of %s.", version.name, held[0].name)
        except SQLAlchemyError as error:
            log.warning("Cannot ask which version serves, %s stays: %s", held[0].name, error)
        except Exception as error:  # PyTorch has errors of its own, such as a full GPU
            if wanted is not None:
                self._faulty = wanted, time.monotonic()
            trace = None if isinstance(error, MaskloopError) else error
            log.error("%s stays in service. %s", held[0].name, error, exc_info=trace)

    def _is_faulty(self, version_id: int) -> bool:
        if self._faulty is None:
            return False
        faulty, since = self._faulty
        return faulty == version_id and time.monotonic() - since < RETRY_AFTER
