"""Fits a network's scores to the IoU its masks really have, on pictures it did not learn from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from model.data.datasets import IGNORE, MaskItem
from model.errors import DatasetError
from model.evaluation.curves import click_curve
from model.evaluation.simulation import START_KINDS
from model.network.confidence import fit, statistics
from model.network.config import SegNextConfig
from model.network.segnext import SegNext
from model.progress import Progress, silent

CLICKS = 5
INSTANCES = 3  # of a picture, the largest
SMALLEST = 150  # pixels of an instance
FEWEST = 50  # answers that a fit needs


def calibrate(
    model: SegNext, items: list[MaskItem], seed: int = 0, progress: Progress = silent
) -> SegNextConfig:
    """Prompt the largest instances of each picture, each from a kind drawn by chance, and fit the
    score of the first ``CLICKS`` answers to their IoU.

    Returns:
        The network's config with ``confidence`` set.

    Raises:
        DatasetError: a picture cannot be read, or they hold too few instances to fit to.
    """
    rng = np.random.default_rng(seed)
    measured: list[list[float]] = []
    true: list[float] = []
    for done, item in enumerate(items):
        progress(done, len(items))
        image, indices = item.load()
        areas = np.bincount(indices.ravel(), minlength=256)
        areas[[0, IGNORE]] = 0
        embedding = None
        for index in np.argsort(areas)[::-1][:INSTANCES]:
            if areas[index] < SMALLEST:
                continue
            embedding = embedding or model.encode(image)
            kind = str(rng.choice(START_KINDS))
            target, known = indices == index, indices != IGNORE
            found = click_curve(model, embedding, target, CLICKS, known, kind)
            for answer, iou in zip(found.answers, found.iou, strict=False):
                probability = answer.logits.sigmoid()
                if bool((probability > answer.threshold).any()):
                    measured.append(statistics(probability, answer.threshold))
                    true.append(float(iou))
    progress(len(items), len(items))
    if len(true) < FEWEST:
        raise DatasetError(
            f"{len(true)} answers are too few to fit a score to; give a set with more objects."
        )
    return replace(model.config, confidence=fit(np.array(measured), np.array(true)))
