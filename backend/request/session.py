"""Finds in the log which region a request continues, and what the model answered before.

Label Studio keeps no state for us and several processes answer, so everything here is worked out
from the rows of past replies and from what the request shows of the annotator's draft.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session as DatabaseSession

from backend.request.prompts import Mark
from pipeline.record import interactions

LOOK_BACK = 300  # newest replies of a task that are read
# Label Studio saves a draft within 5 s. Until then, only our log has a region that was accepted
# automatically.
DRAFT_DELAY = timedelta(seconds=10)
SAME_OBJECT = 0.5  # share of a mask under the click that the new answer must cover
# Least IoU with a mask that is not under the click. It is strict: when the model takes two things
# for one, the second must not replace the mask that was accepted for the first.
SAME_BESIDE = 0.75

Probability = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reply:
    """One past reply, without its pixels. ``carried`` marks were accepted before its session."""

    id: int
    region_id: str
    label: str
    carried: tuple[Mark, ...]
    own: tuple[Mark, ...]
    version_id: int
    at: datetime

    @property
    def marks(self) -> frozenset[Mark]:
        return frozenset((*self.carried, *self.own))


@dataclass(frozen=True, slots=True)
class OpenRegion:
    """The region that a request continues: its id, its label, and the marks it already had."""

    region_id: str
    label: str
    carried: tuple[Mark, ...] = ()


def replies(session: DatabaseSession, task_id: int, image_id: int) -> list[Reply]:
    """The newest replies on a task's image, newest first."""
    return [
        Reply(
            id=row.id,
            region_id=row.region_id,
            label=row.label,
            carried=tuple(Mark.from_json(p) for p in row.prompts if p.get("carried")),
            own=tuple(Mark.from_json(p) for p in row.prompts if not p.get("carried")),
            version_id=row.version_id,
            at=row.at,
        )
        for row in interactions.newest(session, task_id, image_id, LOOK_BACK)
    ]


def new_region_id(project_id: int, task_id: int, label: str, first: Mark) -> str:
    """The region's id in every reply to marks that begin with ``first``, in every process."""
    group = f"{project_id}/{task_id}/{label}/{first.kind}/{first.id}"
    return hashlib.sha256(group.encode()).hexdigest()[:12]


def same_session(log: Sequence[Reply], own: Sequence[Mark]) -> Reply | None:
    """The reply that shares most marks with this request, which is of the same session; or None.

    Marks are compared by their ids, which are unique, so undoing, moving or adding marks does not
    begin a new session. Among replies that share equally many marks, the one with the fewest marks
    is taken, and among those the newest.
    """
    ids = {mark.id for mark in own}

    def shared(reply: Reply) -> int:
        return sum(mark.id in ids for mark in reply.own)

    return max(
        filter(shared, log),
        key=lambda reply: (shared(reply), -len(reply.own), reply.id),
        default=None,
    )


def exact(
    log: Sequence[Reply], region: OpenRegion, own: Sequence[Mark], version: int
) -> Reply | None:
    """The reply to exactly these marks by this model version, if the request is a repeated one."""
    for reply in log:
        same = reply.region_id == region.region_id and reply.version_id == version
        if same and reply.carried == region.carried and reply.own == tuple(own):
            return reply
    return None


def previous(log: Sequence[Reply], marks: Iterable[Mark]) -> Reply | None:
    """The reply to the largest part of the marks; its mask is the previous mask of this request.

    A mark that was undone is not among the marks, so a reply that used it is never taken.
    """
    now = frozenset(marks)
    parts = [reply for reply in log if reply.marks and reply.marks < now]
    return max(parts, key=lambda reply: (len(reply.marks), reply.id), default=None)


def newest_by_region(log: Sequence[Reply], label: str | None) -> list[Reply]:
    """The newest reply of each region, newest first; of all labels if ``label`` is None."""
    seen: dict[str, Reply] = {}
    for reply in log:
        if label is None or reply.label == label:
            seen.setdefault(reply.region_id, reply)
    return list(seen.values())


def same_object(fresh: NDArray[np.bool_], known: NDArray[np.bool_], *, under: bool) -> bool:
    """Whether a fresh answer means the object that a known mask of the same shape shows.

    Args:
        fresh: bool [h, w].
        known: bool [h, w].
        under: whether the click is on the known mask. Then the answer may be larger than the mask,
            but a much smaller answer is another object that lies on top.
    """
    common = np.count_nonzero(fresh & known)
    union = np.count_nonzero(fresh | known)
    area = np.count_nonzero(known)
    if not union or not area:
        return False
    return bool(common / area >= SAME_OBJECT if under else common / union >= SAME_BESIDE)
