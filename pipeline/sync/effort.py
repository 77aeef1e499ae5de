"""The effort that an accepted mask cost, read from the click log: a free signal of hardness."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from model.masks import Mask, iou
from pipeline.errors import RleError
from pipeline.masks import rle
from pipeline.record.tables import Effort, Interaction

log = logging.getLogger(__name__)


def effort_of(replies: Sequence[Interaction], mask: Mask) -> Effort | None:
    """The effort of a region; None for a region that was drawn by hand or imported, without the
    model.

    Args:
        replies: of the model for this region, oldest first.
        mask: the accepted mask, bool [H, W] at the image's upright size.
    """
    if not replies:
        return None
    first, last = replies[0], replies[-1]
    clicks, negative = count_prompts(reply.prompts for reply in replies)
    # A reply is logged when it is ready, so its prompt was made ``milliseconds`` earlier.
    started = first.created_at - timedelta(milliseconds=first.milliseconds)
    return Effort(
        clicks=clicks,
        negative_clicks=negative,
        seconds=max((last.created_at - started).total_seconds(), 0.0),
        first_iou=_iou(first.rle, mask),
        last_iou=_iou(last.rle, mask),
    )


def count_prompts(replies: Iterable[list[dict[str, Any]]]) -> tuple[int, int]:
    """The number of all prompts of a region, and how many of them were negative clicks.

    A reply repeats the earlier prompts, except with auto-accept, where it holds only the newest. A
    click that was undone still counts as effort. So prompts are counted by their ids. All strokes
    of one brush count as one prompt, and so do all versions of the words in a text box.

    >>> a, b = {"id": "a", "positive": True}, {"id": "b", "positive": False}
    >>> count_prompts([[a], [a, b]])
    (2, 1)
    """
    prompts = {prompt["id"].partition("/")[0]: prompt for reply in replies for prompt in reply}
    negative = (
        not prompt.get("positive", True) and prompt.get("kind", "click") == "click"
        for prompt in prompts.values()
    )
    return len(prompts), sum(negative)


def _iou(data: bytes, mask: Mask) -> float | None:
    try:
        return iou(rle.decode(data, *mask.shape), mask)
    except RleError as error:  # The task's image has changed its size since.
        log.warning("A logged reply does not fit the accepted mask: %s", error)
        return None
