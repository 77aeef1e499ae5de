"""How good a network is with a simulated annotator: IoU by clicks, NoC, k-mIoU, boundary IoU.

The protocol is the field's (RITM, SegNext): each click is the deepest pixel of the larger error
region, up to 20; a pixel belongs to the mask above the network's threshold. See
``model.evaluation.simulation.next_click``. The first prompt may be of another kind, which then
counts as the first click (``model.evaluation.simulation.start_prompt``).
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
SCORED = 5  # prompts of an object whose scores are compared with the true IoU


def boundary_iou(a: Mask, b: Mask, share: float = 0.02) -> float:
    """IoU of the masks' inner boundary bands (Cheng et al., arXiv 2103.16562).

    Args:
        a, b: bool ``[H, W]``.
        share: width of the band as a share of the image's diagonal.
    """
    width = max(1, round(share * float(np.hypot(a.shape[0], a.shape[1]))))
    return iou(_band(a, width), _band(b, width))


def _band(mask: Mask, width: int) -> Mask:
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)[1:-1, 1:-1]
    band: Mask = mask & (eroded == 0)
    return band


class Network(Protocol):
    """What is measured: a ``SegNext``, or what stands around one, such as a ``Looker``."""

    def encode(self, image: npt.NDArray[np.uint8]) -> Any: ...

    def decode(self, embedding: Any, prompt: Prompt) -> Prediction: ...


@dataclass(frozen=True, eq=False)
class ClickCurve:
    """What came of clicking one object.

    Attributes:
        iou: after each click, float64 ``[clicks]``; a perfect mask needs no more clicks: its
            value is repeated.
        answers: of each click that was made.
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
    """Click an object until the clicks are used up.

    Args:
        model, embedding: the network and the encoded image.
        target: bool ``[H, W]`` at the original size, not empty.
        clicks: how many at most.
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
    """What came of clicking one object in each image of a set.

    Attributes:
        iou: curves ``[n, clicks]`` of ``click_curve``.
        scores: float64 ``[m]``, scores of the answers to the first ``SCORED`` prompts.
        true: float64 ``[m]``, the IoU of those answers.
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
    """Prompt the largest instance of every image of a set that holds one.

    Args:
        starts: kinds of first prompts; each is measured on its own, from one encoding.

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
    """Clicks each curve ``[n, clicks]`` needs to reach an IoU; the number of clicks when it
    never does."""
    reached = curves >= iou_target
    first = reached.argmax(1) + 1
    return np.where(reached.any(1), first, curves.shape[1])


def summarize(curves: npt.NDArray[np.float64]) -> dict[str, float]:
    """The field's table from IoU curves ``[n, clicks]``.

    Returns:
        ``n``; ``noc85``, ``noc90`` (mean clicks to reach that IoU); ``nof85``, ``nof90`` (how
        many never do); ``miou1``, ``miou2``, ``miou3``, ``miou5`` (mean IoU after that many
        clicks, where there are as many).
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
