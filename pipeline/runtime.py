"""What one process works with, made when first asked for and kept.

A worker's child, a command and a script each make one ``Runtime`` at their entry point. Nothing
is connected, read or loaded before it is used, so a command that only lists things stays quick.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import SettingsError
from pipeline.queue import Enqueuer
from pipeline.record.engine import make_sessions, upgrade
from pipeline.settings import Settings
from pipeline.storage.store import Store

if TYPE_CHECKING:  # each of these imports torch or an HTTP client
    from pipeline.embeddings.tiers import Embeddings
    from pipeline.images.source import ImageSource
    from pipeline.labelstudio.client import LabelStudio
    from pipeline.registry.serving import ServingModel


class Runtime:
    """The parts of the loop, wired together for one process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def sessions(self) -> sessionmaker[Session]:
        """Sessions on the database, which is brought to the newest schema first."""
        upgrade(self.settings)
        return make_sessions(self.settings)

    @cached_property
    def store(self) -> Store:
        return Store(self.settings.store_address)

    @cached_property
    def embeddings(self) -> Embeddings:
        from pipeline.embeddings.tiers import Embeddings

        self.limit_threads()
        return Embeddings(self.sessions, self.store, self.settings)

    @cached_property
    def serving(self) -> ServingModel:
        from pipeline.registry.serving import ServingModel

        self.limit_threads()
        return ServingModel(self.sessions, self.store, self.settings)

    @cached_property
    def label_studio(self) -> LabelStudio:
        from pipeline.labelstudio.client import LabelStudio

        return LabelStudio(self.settings.label_studio)

    @cached_property
    def images(self) -> ImageSource:
        from pipeline.images.source import ImageSource

        def auth() -> dict[str, str]:
            return self.label_studio.auth_header()  # local files need no Label Studio at all

        return ImageSource(self.settings, auth)

    @cached_property
    def enqueuer(self) -> Enqueuer:
        return Enqueuer(self.settings)

    def project(self, named: int | None = None) -> int:
        """The Label Studio project to work on: the one named, else the one of the settings.

        Raises:
            SettingsError: neither says one.
        """
        project = self.settings.label_studio.project if named is None else named
        if project is None:
            raise SettingsError(
                "No project is named; give --project, or set label_studio.project in the settings."
            )
        return project

    def limit_threads(self) -> None:
        """Let torch use as many CPU threads as the settings say."""
        if self.settings.model.threads:
            import torch

            torch.set_num_threads(self.settings.model.threads)
