"""The first prompt of each training target: its kind is drawn by shares, its shape is imperfect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from model.evaluation.simulation import (
    depth,
    rough_mask,
    training_box,
    training_negative,
    training_outline,
    training_strokes,
)
from model.masks import Mask
from model.network.prompts import Click, Prompt

# How often a target starts from each kind of prompt.
KINDS: Mapping[str, float] = {
    "click": 0.5,
    "box": 0.15,
    "polygon": 0.12,
    "scribble": 0.15,
    "mask": 0.08,
}
CENTRE_SHARE = 0.5  # share of first clicks on the deepest pixel, as the evaluation clicks
EDGE_DEPTH = 2.0  # pixels that the other first clicks keep from the edge, where there is room
NEGATIVE_SHARE = 0.25  # share of targets that start with a negative click as well
# Prompts are made, and answers scored, on every second row and column: work on all pixels would
# cost as much as decoding.
HALF = 2


def first_prompt(
    target: Mask,
    others: Mask,
    rng: np.random.Generator,
    kinds: Mapping[str, float] = KINDS,
) -> Prompt:
    """Draw the first prompt for a target.

    Args:
        target: bool ``[H, W]``, not empty.
        others: bool ``[H, W]``, pixels of objects that are not the target; negative clicks often
            lie on them.
        rng: the only source of chance.
        kinds: shares of the kinds of prompts, of ``KINDS``; they need not add up to 1.

    Returns:
        The prompt, in pixels of every ``HALF``-th row and column.
    """
    small, others = target[::HALF, ::HALF], others[::HALF, ::HALF]
    if not small.any():  # so thin that it lies between the rows and columns that are kept
        rows, cols = np.nonzero(target)
        return Prompt((Click(float(rows[0] // HALF), float(cols[0] // HALF)),))
    shares = np.array(list(kinds.values()), np.float64)
    kind = str(rng.choice(list(kinds), p=shares / shares.sum()))
    if kind == "click":
        prompt = Prompt((_first_click(small, rng),))
    elif kind == "box":
        prompt = Prompt(boxes=(training_box(small, rng),))
    elif kind == "polygon":
        prompt = Prompt(polygons=training_outline(small, rng))
    elif kind == "scribble":
        prompt = Prompt(scribbles=training_strokes(small, rng))
    else:
        prompt = Prompt(mask=rough_mask(small, rng))
    if rng.random() < NEGATIVE_SHARE:
        negative = training_negative(small, others, rng)
        if negative is not None:
            prompt = replace(prompt, clicks=(*prompt.clicks, negative))
    return prompt


def _first_click(target: Mask, rng: np.random.Generator) -> Click:
    """A click on ``target``, bool ``[H, W]``: on its deepest pixel, or anywhere inside its edge."""
    inner = depth(target)
    if rng.random() < CENTRE_SHARE:
        flat = int(inner.argmax())
    else:
        least = min(EDGE_DEPTH, float(inner.max()) / 2)
        flat = int(rng.choice(np.flatnonzero(inner >= least)))
    row, col = np.unravel_index(flat, inner.shape)
    return Click(float(row), float(col))
