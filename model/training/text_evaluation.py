"""How well a network understands words: their masks in pictures whose objects have names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from model.errors import DatasetError
from model.evaluation.simulation import next_click
from model.masks import iou
from model.network.prompts import Prompt
from model.network.segnext import SegNext
from model.progress import Progress, silent
from model.training.named_pictures import Picture


def measure_text(
    model: SegNext, pictures: Sequence[Picture], progress: Progress = silent
) -> dict[str, Any]:
    """Prompt every picture with every name of the set.

    Returns:
        ``pictures``: their number; ``words``: how often the picture held objects of the name;
        ``miou``: mean IoU of those masks with all objects of the name; ``miou_click``: the same
        after one click into the larger error, with the word kept; ``absent``: how often the picture
        held no object of the name; ``absent_area``: mean share of the picture that those masks
        cover (None where every picture holds every name).

    Raises:
        DatasetError: no picture holds an object that has a name.
    """
    vocabulary = sorted({name for picture in pictures for name in picture.names})
    words, clicked, absent = [], [], []
    for done, picture in enumerate(pictures, start=1):
        embedding, masks, known = picture.load()
        for name in vocabulary:
            answer = model.decode(embedding, Prompt(text=name))
            predicted = answer.mask() & known
            if name not in masks:
                absent.append(float(predicted.mean()))
                continue
            target = masks[name] & known
            words.append(iou(predicted, target))
            click = next_click(target, predicted, np.zeros_like(target), known)
            if click is not None:
                prompt = Prompt((click,), mask=answer.probability, text=name)
                predicted = model.decode(embedding, prompt).mask() & known
            clicked.append(iou(predicted, target))
        progress(done, len(pictures))
    if not words:
        raise DatasetError("No picture to measure words on gives names to its objects; name them.")
    return {
        "pictures": len(pictures),
        "words": len(words),
        "miou": round(float(np.mean(words)), 4),
        "miou_click": round(float(np.mean(clicked)), 4),
        "absent": len(absent),
        "absent_area": round(float(np.mean(absent)), 4) if absent else None,
    }
