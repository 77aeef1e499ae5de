"""What the checks of ``maskloop doctor`` share: what they look at, and how they answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.errors import LabelStudioError
from pipeline.labelstudio.client import Json, LabelStudio
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.runtime import Runtime
from pipeline.settings import Settings

State = Literal["ok", "advice", "problem", "skipped"]


@dataclass(frozen=True)
class Answer:
    """What one check found: a sentence, which for advice and problems ends in a remedy."""

    state: State
    text: str


def ok(text: str) -> Answer:
    return Answer("ok", text)


def advice(text: str) -> Answer:
    """It works, and could work better."""
    return Answer("advice", text)


def problem(text: str) -> Answer:
    return Answer("problem", text)


class Case:
    """One installation under examination; nothing is asked before a check asks for it.

    Args:
        load: gives the settings.
        project_id: of Label Studio; None: the settings'.
    """

    def __init__(self, load: Callable[[], Settings], project_id: int | None = None) -> None:
        self._load = load
        self._project_id = project_id

    @cached_property
    def settings(self) -> Settings:
        return self._load()

    @cached_property
    def runtime(self) -> Runtime:
        return Runtime(self.settings)

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
        """The command that sets the project's backend and webhook right."""
        return f"`maskloop connect --project {self.project_id}`"

    @cached_property
    def project(self) -> Json:
        found = self.client.project(self.project_id)
        if found is None:
            raise LabelStudioError(
                f"Label Studio at {self.client.url} has no project {self.project_id}; give "
                "--project, or set label_studio.project to one it has."
            )
        return found

    @cached_property
    def config(self) -> LabelConfig:
        return read_label_config(str(self.project["label_config"]))

    @cached_property
    def backends(self) -> list[Json]:
        """The project's ML backends; asking makes Label Studio look at the health of each."""
        return self.client.backends(self.project_id)

    @property
    def our_backends(self) -> list[Json]:
        return [row for row in self.backends if row["url"].rstrip("/") == self.backend_url]

    def close(self) -> None:
        """Close what was opened; the settings may be unreadable, and then nothing was."""
        runtime = self.__dict__.get("runtime")
        if runtime is None:
            return
        opened = runtime.__dict__
        for name in ("images", "enqueuer", "label_studio"):
            if name in opened:
                opened[name].close()
        if "sessions" in opened:
            opened["sessions"].kw["bind"].dispose()
