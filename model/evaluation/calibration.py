"""Fits a network's scores to the true IoU of its masks, on pictures that it did not learn from."""

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

CLICKS = 5  # answers for each instance
INSTANCES = 3  # of each picture: the largest ones
SMALLEST = 150  # least pixels of an instance
FEWEST = 50  # least answers that a fit needs


def calibrate(
    model: SegNext, items: list[MaskItem], seed: int = 0, progress: Progress = silent
) -> SegNextConfig:
    """Prompt the largest instances of each picture and fit the scores of the answers to their IoU.

    The kind of each first prompt is drawn at random; the first ``CLICKS`` answers count.

    Args:
        model: the network; left as it is.
        items: pictures with masks.
        seed: 0 or more, of the draws.
        progress: called with the pictures done, and of all.

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
            for answer, true_iou in zip(found.answers, found.iou, strict=False):
                probability = answer.logits.sigmoid()
                if bool((probability > answer.threshold).any()):
                    measured.append(statistics(probability, answer.threshold))
                    true.append(float(true_iou))
    progress(len(items), len(items))
    if len(true) < FEWEST:
        raise DatasetError(
            f"{len(true)} answers are too few to fit a score to; give a set with more objects."
        )
    return replace(model.config, confidence=fit(np.array(measured), np.array(true)))
