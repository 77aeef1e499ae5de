"""How well a network answers a simulated annotator: IoU by clicks, NoC, k-mIoU, boundary IoU.

The protocol is the field's (RITM, SegNext): each of up to 20 clicks is the deepest pixel of the
larger error region (``model.evaluation.simulation.next_click``); a pixel belongs to the mask above
the network's threshold. The first prompt may be of another kind and then counts as the first click
(``model.evaluation.simulation.start_prompt``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from model.data.datasets import IGNORE, MaskItem, largest_instance
from model.evaluation.simulation import next_click, start_prompt
from model.masks import Mask, iou
from model.network.prediction import Prediction
from model.network.prompts import Prompt
from model.progress import Progress, silent

Curve = npt.NDArray[np.float64]
MAX_CLICKS = 20
SCORED = 5  # answers of an object, from the first, whose scores are compared with the true IoU
BAND_SHARE = 0.02  # width of the boundary band, as a share of the image's diagonal


def boundary_iou(a: Mask, b: Mask, share: float = BAND_SHARE) -> float:
    """IoU of the masks' inner boundary bands (Cheng et al., arXiv 2103.16562).

    Args:
        a, b: bool ``[H, W]``.
        share: width of the band, as a share of the image's diagonal.
    """
    width = max(1, round(share * float(np.hypot(a.shape[0], a.shape[1]))))
    return iou(_band(a, width), _band(b, width))


def _band(mask: Mask, width: int) -> Mask:
    """The pixels of a mask, bool ``[H, W]``, that are at most ``width`` pixels from its edge."""
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    band: Mask = mask & (eroded == 0)
    return band


class Network(Protocol):
    """What is measured: a ``SegNext``, or a wrapper of one, such as a ``Looker``."""

    def encode(self, image: npt.NDArray[np.uint8]) -> Any:
        """Encode one image, uint8 ``[H, W, 3]`` RGB, upright."""

    def decode(self, embedding: Any, prompt: Prompt) -> Prediction:
        """Answer one prompt on an encoded image."""


@dataclass(frozen=True, eq=False)
class ClickCurve:
    """The results of prompting one object.

    Attributes:
        iou: after each click, float64 ``[clicks]`` in [0, 1]. A perfect mask needs no more clicks;
            its value is repeated.
        answers: to each prompt that was given.
    """

    iou: Curve
    answers: list[Prediction]


def click_curve(
    model: Network,
    embedding: Any,
    target: Mask,
    clicks: int = MAX_CLICKS,
    known: Mask | None = None,
    start: str = "click",
) -> ClickCurve:
    """Prompt one object until its mask is perfect or the clicks are used up.

    Args:
        model, embedding: the network and the encoded image.
        target: bool ``[H, W]`` at the original size, not empty.
        clicks: prompts at most, with the first one.
        known: bool ``[H, W]``, pixels that count; None: all.
        start: kind of the first prompt, of ``model.evaluation.simulation.START_KINDS``.
    """
    known = np.ones_like(target) if known is None else known
    predicted, used = np.zeros_like(target), np.zeros_like(target)
    result = ClickCurve(np.ones(clicks), [])
    prompt = Prompt()
    for k in range(clicks):
        if k == 0 and start != "click":
            prompt = start_prompt(start, target)
        else:
            click = next_click(target, predicted, used, known)
            if click is None:
                result.iou[k:] = result.iou[k - 1] if k else 1.0
                break
            prompt = replace(prompt, clicks=(*prompt.clicks, click))
        prediction = model.decode(embedding, prompt)
        predicted = prediction.mask()
        result.iou[k] = iou(predicted & known, target & known)
        result.answers.append(prediction)
        prompt = replace(prompt, mask=prediction.probability)
    return result


@dataclass(frozen=True, eq=False)
class FolderCurves:
    """The results of prompting one object in each image of a set.

    Attributes:
        iou: curves from ``click_curve``, float64 ``[n, clicks]``.
        scores: of each object's first ``SCORED`` answers, float64 ``[m]``.
        true: the true IoU of those answers, float64 ``[m]``.
    """

    iou: Curve
    scores: Curve
    true: Curve


def evaluate_folder(
    model: Network,
    items: list[MaskItem],
    clicks: int = MAX_CLICKS,
    progress: Progress = silent,
    starts: Sequence[str] = ("click",),
) -> dict[str, FolderCurves]:
    """Prompt the largest instance of every image that has one.

    Args:
        model: the network.
        items: images with masks.
        clicks: prompts for each object, at most.
        progress: called with the images done, and of all.
        starts: kinds of first prompts. Each is measured by itself; the image is encoded once.

    Returns:
        The curves of each kind of ``starts``.

    Raises:
        DatasetError: an image or a mask cannot be read.
    """
    curves: dict[str, list[Curve]] = {start: [] for start in starts}
    scored: dict[str, list[tuple[float, float]]] = {start: [] for start in starts}
    for done, item in enumerate(items):
        progress(done, len(items))
        image, indices = item.load()
        target = largest_instance(indices)
        if target is None:
            continue
        embedding = model.encode(image)
        known = indices != IGNORE
        for start in starts:
            found = click_curve(model, embedding, target, clicks, known, start)
            curves[start].append(found.iou)
            early = zip(found.answers[:SCORED], found.iou, strict=False)
            scored[start] += [(answer.score, float(true)) for answer, true in early]
    progress(len(items), len(items))
    return {
        start: FolderCurves(
            np.array(curves[start]).reshape(-1, clicks),
            *np.array(scored[start]).reshape(-1, 2).T,
        )
        for start in starts
    }


def clicks_to_reach(curves: npt.NDArray[np.float64], iou_target: float) -> npt.NDArray[np.int64]:
    """How many clicks each curve ``[n, clicks]`` needs to reach an IoU: int64 ``[n]``; the curve's
    length when it never does."""
    reached = curves >= iou_target
    first = reached.argmax(1) + 1
    return np.where(reached.any(1), first, curves.shape[1])


def summarize(curves: npt.NDArray[np.float64]) -> dict[str, float]:
    """The field's figures for IoU curves ``[n, clicks]``.

    Returns:
        ``n``; ``noc85`` and ``noc90``: the mean number of clicks to reach an IoU of 0.85 and 0.90;
        ``nof85`` and ``nof90``: how many objects never reach it; ``miou1``, ``miou2``, ``miou3``
        and ``miou5``: the mean IoU after so many clicks, where the curves are that long. Only
        ``n`` when there is no curve.
    """
    table: dict[str, float] = {"n": len(curves)}
    if not len(curves):
        return table
    for percent in (85, 90):
        target = percent / 100
        table[f"noc{percent}"] = float(clicks_to_reach(curves, target).mean())
        table[f"nof{percent}"] = int((~(curves >= target).any(1)).sum())
    for k in (1, 2, 3, 5):
        if k <= curves.shape[1]:
            table[f"miou{k}"] = float(curves[:, k - 1].mean())
    return table
