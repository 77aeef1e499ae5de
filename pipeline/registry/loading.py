"""The network that a command means: a checkpoint's file, or a model version by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.registry import base as registry
from pipeline.runtime import Runtime

if TYPE_CHECKING:  # torch takes seconds to import
    from model.network.segnext import SegNext


def load_checkpoint(runtime: Runtime, name: str | None) -> tuple[str, SegNext]:
    """(name, network) of a file, which needs no database, or of a model version.

    Args:
        name: None: the base of the settings.

    Raises:
        CheckpointError: it is neither, or cannot be used.
    """
    from model.checkpoints import files as checkpoints

    settings = runtime.settings
    path = registry.named_file(settings, name)
    if path is not None:
        return path.name, checkpoints.load(path, device=registry.device(settings))
    with runtime.sessions.begin() as session:
        if (
            registry.serving(session) is None
        ):  # nothing was used yet, and "base" is a version all the same
            registry.ensure_base(session, runtime.store, settings)
        version = registry.named_version(session, settings, name)
    network = registry.load_version(version, runtime.store, settings)
    return version.name, network
