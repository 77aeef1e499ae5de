"""The installation that the checks of ``maskloop doctor`` examine, and their answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.projects import find_project
from pipeline.labelstudio.types import BackendJson, ProjectJson
from pipeline.runtime import Runtime
from pipeline.settings import Settings

State = Literal["ok", "advice", "problem", "skipped"]


@dataclass(frozen=True)
class Answer:
    """The result of one check: a sentence, which for advice and problems ends in a remedy."""

    state: State
    text: str


def ok(text: str) -> Answer:
    return Answer("ok", text)


def advice(text: str) -> Answer:
    """An answer for something that works but could work better."""
    return Answer("advice", text)


def problem(text: str) -> Answer:
    return Answer("problem", text)


class Case:
    """The examined installation; each part is opened or read only when a check needs it.

    Args:
        load: gives the settings.
        project_id: of Label Studio; None: the settings'.
    """

    def __init__(self, load: Callable[[], Settings], project_id: int | None = None) -> None:
        self._load = load
        self._project_id = project_id
        self._opened = ExitStack()

    @cached_property
    def settings(self) -> Settings:
        return self._load()

    @cached_property
    def runtime(self) -> Runtime:
        return self._opened.enter_context(Runtime(self.settings))

    @property
    def client(self) -> LabelStudio:
        return self.runtime.label_studio

    @property
    def project_id(self) -> int:
        return self.runtime.project(self._project_id)

    @property
    def backend_url(self) -> str:
        return self.settings.backend.url.rstrip("/")

    @property
    def repair(self) -> str:
        """The command that repairs the project's backend and webhook."""
        return f"`maskloop connect --project {self.project_id}`"

    @cached_property
    def project(self) -> ProjectJson:
        return find_project(self.client, self.project_id)

    @cached_property
    def config(self) -> LabelConfig:
        return read_label_config(str(self.project["label_config"]))

    @cached_property
    def backends(self) -> list[BackendJson]:
        """The project's ML backends; this request makes Label Studio check the health of each."""
        return self.client.backends(self.project_id)

    @property
    def our_backends(self) -> list[BackendJson]:
        return [row for row in self.backends if row["url"].rstrip("/") == self.backend_url]

    def close(self) -> None:
        """Close what was opened; nothing was opened when the settings cannot be read."""
        self._opened.close()
