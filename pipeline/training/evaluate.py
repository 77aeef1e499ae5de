"""Measures a checkpoint on a folder of images and masks: ``maskloop eval``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from model.data.datasets import read_folder
from model.errors import DatasetError
from model.evaluation.curves import FolderCurves, evaluate_folder, summarize
from model.evaluation.simulation import START_KINDS
from model.network.confidence import calibration_error, rank_correlation
from model.progress import Progress, silent
from pipeline.runtime import Runtime


def evaluate_checkpoint(
    runtime: Runtime,
    folder: Path,
    checkpoint: str | None = None,
    *,
    limit: int | None = None,
    clicks: int = 20,
    split: str | None = None,
    prompt: str = "click",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Let a simulated annotator prompt the largest instance of each image.

    Args:
        checkpoint: a file, or the name of a model version; None: the base of the settings.
        limit: only the first so many images.
        prompt: kind of each object's first prompt, before the clicks, one of ``START_KINDS`` in
            ``model.evaluation.simulation``; or ``all``, to measure each of them.

    Returns:
        What was measured, how long it took, the figures of ``model.evaluation.curves.summarize``,
        and the calibration error and rank correlation of the scores
        (``model.network.confidence``). With ``all``, ``prompts`` holds the figures of each kind,
        and the top level holds those of clicks.

    Raises:
        DatasetError: the folder is not a valid dataset, or holds no instance.
        CheckpointError: the checkpoint cannot be used.
    """
    runtime.limit_threads()
    name, model = runtime.registry.load_named(checkpoint)
    items = read_folder(folder, split)[:limit]
    started = time.monotonic()
    kinds = START_KINDS if prompt == "all" else (prompt,)
    curves = evaluate_folder(model, items, clicks, progress, kinds)
    if not len(curves[kinds[0]].iou):
        raise DatasetError(f"No image of {folder} holds an instance; give a set that has some.")
    by_kind = {kind: _table(curves[kind]) for kind in kinds}
    return {
        "checkpoint": name,
        "folder": str(folder),
        "clicks": clicks,
        "prompt": prompt,
        **by_kind[kinds[0]],
        **({"prompts": by_kind} if len(by_kind) > 1 else {}),
        "seconds": round(time.monotonic() - started, 1),
    }


def _table(curves: FolderCurves) -> dict[str, float]:
    """The usual figures of the field, and how well the scores fit the true IoU."""
    return {
        **summarize(curves.iou),
        "score_error": calibration_error(curves.scores, curves.true),
        "score_rank": rank_correlation(curves.scores, curves.true),
    }
