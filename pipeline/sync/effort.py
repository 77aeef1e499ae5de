"""What an accepted mask cost, read from the click log: the free signals of hardness."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.masks import Mask, iou
from pipeline.errors import RleError
from pipeline.masks import rle
from pipeline.record.tables import Effort, Interaction, Region

log = logging.getLogger(__name__)


def record_effort(session: Session, task_id: int, region: Region, mask: Mask) -> None:
    """Match a region to our replies by its id, and write down what it cost.

    A region nobody asked the model for, drawn by hand or imported, gets no effort row.

    Args:
        session: within a transaction; ``region`` has its id already.
        task_id: id of the task row.
        mask: the accepted mask, bool [H, W] at the image's upright size.
    """
    known = session.get(Effort, region.id)
    replies = session.execute(
        select(
            Interaction.id,
            Interaction.prompts,
            Interaction.rle,
            Interaction.created_at,
            Interaction.milliseconds,
        )
        .where(Interaction.task_id == task_id, Interaction.region_id == region.ls_region_id)
        .order_by(Interaction.created_at, Interaction.id)
    ).all()
    if not replies:
        region.interaction_id = None
        if known is not None:
            session.delete(known)
        return
    first, last = replies[0], replies[-1]
    clicks, negative = count_prompts(reply.prompts for reply in replies)
    effort = known or Effort(region_id=region.id)
    effort.clicks, effort.negative_clicks = clicks, negative
    # A reply is logged when it is ready, so its prompt came that much earlier.
    started = first.created_at - timedelta(milliseconds=first.milliseconds)
    effort.seconds = max((last.created_at - started).total_seconds(), 0.0)
    effort.first_iou = _iou(first.rle, mask)
    effort.last_iou = _iou(last.rle, mask)
    region.interaction_id = last.id
    session.add(effort)


def count_prompts(replies: Iterable[list[dict[str, Any]]]) -> tuple[int, int]:
    """All prompts made, and how many of them were negative clicks, over all replies of a region.

    A reply repeats the prompts before it, except with auto-accept, where it holds only the newest;
    and a click that was undone was made all the same. So prompts are counted by their ids; all
    strokes of one brush, and all wordings of a text box, as one.

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
    except RleError as error:  # the image behind the task changed its size since
        log.warning("a logged reply does not fit the accepted mask: %s", error)
        return None
