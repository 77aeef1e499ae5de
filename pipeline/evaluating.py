"""Measuring a checkpoint on a folder of images and masks: ``maskloop eval``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from model import checkpoints
from model.datasets import read_folder
from model.errors import CheckpointError, DatasetError
from model.evaluation import evaluate_folder, summarize
from model.progress import Progress, silent
from model.segnext import SegNext
from pipeline import registry
from pipeline.errors import UnknownRecordError
from pipeline.runtime import Runtime


def evaluate_checkpoint(
    runtime: Runtime,
    folder: Path,
    checkpoint: str | None = None,
    *,
    limit: int | None = None,
    clicks: int = 20,
    split: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Let a simulated annotator click the largest instance of each image.

    Args:
        checkpoint: a file, or the name of a model version; None: the base of the settings.
        limit: only the first so many images.

    Returns:
        What was measured, how long it took, and the figures of ``model.evaluation.summarize``.

    Raises:
        DatasetError: the folder does not hold what it should, or no instance at all.
        CheckpointError: the checkpoint cannot be used.
    """
    runtime.limit_threads()
    name, model = _load(runtime, checkpoint)
    items = read_folder(folder, split)[:limit]
    started = time.monotonic()
    names, curves = evaluate_folder(model, items, clicks, progress)
    if not names:
        raise DatasetError(f"No image of {folder} holds an instance; give a set that has some.")
    return {
        "checkpoint": name,
        "folder": str(folder),
        "clicks": clicks,
        **summarize(curves),
        "seconds": round(time.monotonic() - started, 1),
    }


def _load(runtime: Runtime, checkpoint: str | None) -> tuple[str, SegNext]:
    settings = runtime.settings
    path = registry.base_checkpoint(settings) if checkpoint is None else Path(checkpoint)
    if path.is_file() or checkpoint is None:
        return path.name, checkpoints.load(path, device=registry.device(settings))
    try:
        with runtime.sessions() as session:
            version = registry.find(session, checkpoint)
    except UnknownRecordError:
        raise CheckpointError(
            f"{checkpoint} is neither a file nor a model version; "
            "`maskloop models list` names the versions."
        ) from None
    return version.name, registry.load_version(version, runtime.store, settings)
