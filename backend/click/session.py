"""Which region a request goes on with, and what the model said before: found in the log.

Label Studio keeps no state for us and several processes answer, so everything here is worked out
from the rows of past replies and from what the request shows of the annotator's draft.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session as DatabaseSession

from backend.click.prompts import Mark
from pipeline.record.tables import Interaction

LOOK_BACK = 300  # newest replies of a task that are looked at
# Label Studio saves a draft within 5 s. Until then a region accepted by itself is only in our log.
DRAFT_DELAY = timedelta(seconds=10)
SAME_OBJECT = 0.5  # share of a mask under the click that its new answer must keep
# IoU with a mask beside the click. Strict: when the model takes two things for one, the second must
# not replace the mask that was accepted for the first.
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
class Thread:
    """The region a request goes on with: its id, its label, and the marks it already had."""

    region_id: str
    label: str
    carried: tuple[Mark, ...] = ()


def replies(database: DatabaseSession, task_id: int, image_id: int) -> list[Reply]:
    """The newest replies on a task's image, newest first."""
    rows = database.execute(
        select(
            Interaction.id,
            Interaction.region_id,
            Interaction.label,
            Interaction.prompts,
            Interaction.model_version_id,
            Interaction.created_at,
        )
        .where(Interaction.task_id == task_id, Interaction.image_id == image_id)
        .order_by(Interaction.id.desc())
        .limit(LOOK_BACK)
    )
    return [
        Reply(
            id=row.id,
            region_id=row.region_id,
            label=row.label,
            carried=tuple(Mark.from_json(p) for p in row.prompts if p.get("carried")),
            own=tuple(Mark.from_json(p) for p in row.prompts if not p.get("carried")),
            version_id=row.model_version_id,
            at=row.created_at,
        )
        for row in rows
    ]


def uses(database: DatabaseSession, task_id: int, image_id: int) -> dict[str, set[str]]:
    """The regions that each mark on a task's image was ever used for, by its id."""
    rows = database.execute(
        select(Interaction.region_id, Interaction.prompts).where(
            Interaction.task_id == task_id, Interaction.image_id == image_id
        )
    )
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for prompt in row.prompts:
            found[prompt["id"]].add(row.region_id)
    return found


def new_region_id(project_id: int, task_id: int, label: str, first: Mark) -> str:
    """The id every reply to the marks that begin with ``first`` carries, whoever answers."""
    group = f"{project_id}/{task_id}/{label}/{first.kind}/{first.id}"
    return hashlib.sha256(group.encode()).hexdigest()[:12]


def same_session(log: Sequence[Reply], own: Sequence[Mark]) -> Reply | None:
    """The reply that shares most marks with this request: its session.

    By their ids, which are unique: marks that were undone, moved or added since belong to the same
    session. Of several replies, the one that had least besides, and the newest of those.
    """
    ids = {mark.id for mark in own}

    def shared(reply: Reply) -> int:
        return sum(mark.id in ids for mark in reply.own)

    return max(
        filter(shared, log),
        key=lambda reply: (shared(reply), -len(reply.own), reply.id),
        default=None,
    )


def exact(log: Sequence[Reply], thread: Thread, own: Sequence[Mark], version: int) -> Reply | None:
    """The reply to these very marks by this very model version: a repeated request."""
    for reply in log:
        same = reply.region_id == thread.region_id and reply.version_id == version
        if same and reply.carried == thread.carried and reply.own == tuple(own):
            return reply
    return None


def previous(log: Sequence[Reply], marks: Iterable[Mark]) -> Reply | None:
    """The reply to the largest part of the marks, which is the previous mask of this request.

    A mark that was undone is in no such part, so no mask that saw it comes back.
    """
    now = frozenset(marks)
    parts = [reply for reply in log if reply.marks and reply.marks < now]
    return max(parts, key=lambda reply: (len(reply.marks), reply.id), default=None)


def newest_by_region(log: Sequence[Reply], label: str | None) -> list[Reply]:
    """The newest reply of each region of a label, or of any, newest first."""
    seen: dict[str, Reply] = {}
    for reply in log:
        if label is None or reply.label == label:
            seen.setdefault(reply.region_id, reply)
    return list(seen.values())


def same_object(fresh: NDArray[np.bool_], known: NDArray[np.bool_], *, under: bool) -> bool:
    """Whether a fresh answer means the object that a known mask of the same shape shows.

    Args:
        under: the click is on the known mask. Then the answer may be larger than the mask; one
            much smaller is another object, lying on top.
    """
    common = np.count_nonzero(fresh & known)
    union = np.count_nonzero(fresh | known)
    area = np.count_nonzero(known)
    if not union or not area:
        return False
    return bool(common / area >= SAME_OBJECT if under else common / union >= SAME_BESIDE)
