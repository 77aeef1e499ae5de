"""How good a network is with a simulated annotator: IoU by clicks, NoC, k-mIoU, boundary IoU.

The protocol is the field's (RITM, SegNext): each click is the deepest pixel of the larger error
region, up to 20; a pixel belongs to the mask above the network's threshold. See
``model.simulation.next_click``. The first prompt may be of another kind, which then counts as the
first click (``model.simulation.start_prompt``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from model.datasets import IGNORE, MaskItem, largest_instance
from model.embedding import Embedding
from model.progress import Progress, silent
from model.prompts import Prompt
from model.segnext import SegNext
from model.simulation import next_click, start_prompt

Mask = npt.NDArray[np.bool_]
MAX_CLICKS = 20


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union of two bool ``[H, W]`` masks; 1 when both are empty."""
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else float(np.count_nonzero(a & b)) / union


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


def click_curve(
    model: SegNext,
    embedding: Embedding,
    target: Mask,
    clicks: int = MAX_CLICKS,
    known: Mask | None = None,
    start: str = "click",
) -> tuple[npt.NDArray[np.float64], list[Mask]]:
    """Click an object until the clicks are used up.

    Args:
        model, embedding: the network and the encoded image.
        target: bool ``[H, W]`` at the original size, not empty.
        clicks: how many at most.
        known: bool ``[H, W]``, pixels that count; None: all.
        start: kind of the first prompt, of ``model.simulation.START_KINDS``.

    Returns:
        IoU after each click, float64 ``[clicks]`` (a perfect mask needs no more clicks: its
        value is repeated), and the mask after each click made.
    """
    known = np.ones_like(target) if known is None else known
    predicted, used = np.zeros_like(target), np.zeros_like(target)
    curve = np.ones(clicks)
    masks: list[Mask] = []
    prompt = Prompt()
    for k in range(clicks):
        if k == 0 and start != "click":
            prompt = start_prompt(start, target)
        else:
            click = next_click(target, predicted, used, known)
            if click is None:
                curve[k:] = curve[k - 1] if k else 1.0
                break
            prompt = replace(prompt, clicks=(*prompt.clicks, click))
        prediction = model.decode(embedding, prompt)
        predicted = prediction.mask()
        masks.append(predicted)
        curve[k] = iou(predicted & known, target & known)
        prompt = replace(prompt, mask=prediction.probability)
    return curve, masks


def evaluate_folder(
    model: SegNext,
    items: list[MaskItem],
    clicks: int = MAX_CLICKS,
    progress: Progress = silent,
    starts: Sequence[str] = ("click",),
) -> tuple[list[str], dict[str, npt.NDArray[np.float64]]]:
    """Prompt the largest instance of every image of a set.

    Args:
        starts: kinds of first prompts; each is measured on its own, from one encoding.

    Returns:
        Names of the images that hold an instance, and for each kind of ``starts`` their IoU
        curves ``[n, clicks]``.

    Raises:
        DatasetError: an image or a mask cannot be read.
    """
    names: list[str] = []
    curves: dict[str, list[npt.NDArray[np.float64]]] = {start: [] for start in starts}
    for done, item in enumerate(items):
        progress(done, len(items))
        indices = item.load_mask()
        target = largest_instance(indices)
        if target is None:
            continue
        names.append(item.name)
        embedding = model.encode(item.load_image())
        known = indices != IGNORE
        for start in starts:
            curves[start].append(click_curve(model, embedding, target, clicks, known, start)[0])
    progress(len(items), len(items))
    return names, {start: np.array(found).reshape(-1, clicks) for start, found in curves.items()}


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
