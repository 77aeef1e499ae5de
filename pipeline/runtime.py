"""The parts of the loop for one process, made at their first use and closed at the end.

A worker's child, the backend, a command and a test each make one ``Runtime`` at their entry point.
Nothing is connected, read or loaded before it is used, so a command that only lists things is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Self

from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import SettingsError
from pipeline.queue import QUEUES, Enqueuer
from pipeline.record import heartbeats, schema
from pipeline.record.engine import make_engine, sessions_on
from pipeline.settings import Settings
from pipeline.storage.store import Store

if TYPE_CHECKING:  # each of these imports torch or an HTTP client
    import numpy as np
    import numpy.typing as npt

    from model.network.embedding import Embedding
    from model.network.segnext import SegNext
    from pipeline.embeddings.tiers import Embeddings
    from pipeline.images.catalog import Catalog
    from pipeline.images.source import ImageSource
    from pipeline.labelstudio.client import LabelStudio
    from pipeline.registry.registry import Registry
    from pipeline.registry.serving import ServingModel

    Encode = Callable[[SegNext, npt.NDArray[np.uint8]], Embedding]


class Runtime:
    """The parts of the loop for one process. As a context manager it closes them.

    Args:
        migrate: bring the database to the newest schema before its first use. Otherwise a missing
            or old database is an error (``pipeline.record.schema`` says which processes migrate).
        encode: replaces ``SegNext.encode`` for a process whose threads must take turns.
        compiled: compile the networks that serve.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        migrate: bool = False,
        encode: Encode | None = None,
        compiled: bool = False,
    ) -> None:
        self.settings = settings
        self._migrate = migrate
        self._encode = encode
        self._compiled = compiled
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the parts that were opened, the newest first."""
        self._opened.close()

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        """Sessions on the database, whose schema is the newest.

        Raises:
            SettingsError, DatabaseError: as for ``pipeline.record.schema.upgrade`` and ``check``.
        """
        if self._migrate:
            schema.upgrade(self.settings)
        else:
            schema.check(self.settings)
        engine = make_engine(self.settings)
        self._opened.callback(engine.dispose)
        return sessions_on(engine)

    @cached_property
    def store(self) -> Store:
        return Store(self.settings.store_address)

    @cached_property
    def registry(self) -> Registry:
        from pipeline.registry.registry import Registry

        return Registry(lambda: self.sessions, self.store, self.settings)

    @cached_property
    def serving(self) -> ServingModel:
        from pipeline.registry.serving import ServingModel

        self.limit_threads()
        return ServingModel(self.registry, compiled=self._compiled)

    @cached_property
    def embeddings(self) -> Embeddings:
        from pipeline.embeddings.tiers import Embeddings

        self.limit_threads()
        return Embeddings(self.sessions, self.store, self.settings, self._encode)

    @cached_property
    def label_studio(self) -> LabelStudio:
        """Raises SettingsError when the settings hold no token."""
        from pipeline.labelstudio.client import LabelStudio

        return self._opened.enter_context(LabelStudio(self.settings.label_studio))

    @property
    def has_token(self) -> bool:
        """Whether the settings hold a token for Label Studio. Without one, images can come only
        from this machine and from allowed hosts."""
        return bool(self.settings.label_studio.token.get_secret_value())

    @cached_property
    def source(self) -> ImageSource:
        """The source that fetches images from the addresses in tasks."""
        from pipeline.images.source import ImageSource

        def auth() -> dict[str, str]:
            return self.label_studio.auth_header() if self.has_token else {}

        return self._opened.enter_context(ImageSource(self.settings, auth))

    @cached_property
    def catalog(self) -> Catalog:
        from pipeline.images.catalog import Catalog

        return Catalog(self.sessions, self.store, self.source, self.settings)

    @cached_property
    def enqueuer(self) -> Enqueuer:
        enqueuer = Enqueuer(self.settings)
        self._opened.callback(enqueuer.close)
        return enqueuer

    def project(self, named: int | None = None) -> int:
        """The id of the Label Studio project to use: ``named``, else that of the settings.

        Raises:
            SettingsError: neither names a project.
        """
        project = self.settings.label_studio.project if named is None else named
        if project is None:
            raise SettingsError(
                "No project is named; give --project, or set label_studio.project in the settings."
            )
        return project

    def silent(self) -> list[str]:
        """A sentence for each part of the loop that should give signs of life and does not."""
        queues, poll = set(QUEUES.values()), self.settings.label_studio.poll_seconds
        with self.sessions() as session:
            return heartbeats.silent(session, queues, poll)

    def limit_threads(self) -> None:
        """Let torch use as many CPU threads as the settings say."""
        if self.settings.model.threads:
            import torch

            torch.set_num_threads(self.settings.model.threads)
