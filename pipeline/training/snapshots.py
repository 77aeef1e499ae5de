"""Snapshots: the accepted regions that a fine-tune sees, frozen.

A snapshot is known by the digest of its members. The same members give the same snapshot, so a
fine-tune that was already judged is recognised whoever asks for it, and however often.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVarTuple

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from pipeline.errors import NotEnoughDataError
from pipeline.record.tables import (
    Annotation,
    GateDecision,
    Image,
    ModelVersion,
    Region,
    Snapshot,
    SnapshotRegion,
)
from pipeline.record.tables.image import Split

Columns = TypeVarTuple("Columns")


@dataclass(frozen=True)
class Member:
    """One accepted region of a snapshot. ``mask`` is a 1-bit PNG at the image's upright size."""

    image_id: int
    image_sha256: str
    label: str
    mask: bytes
    split: Split

    @property
    def fingerprint(self) -> str:
        """What makes two members the same, and their order in a digest; hex."""
        mask = hashlib.sha256(self.mask).hexdigest()
        return hashlib.sha256(f"{self.image_sha256}\0{self.label}\0{mask}".encode()).hexdigest()


def take_snapshot(session: Session) -> Snapshot:
    """Freeze what is accepted now; with the same members as an earlier snapshot, return that one.

    Raises:
        NotEnoughDataError: nothing is accepted yet.
    """
    members = _current(session)
    if not members:
        raise NotEnoughDataError("No mask is accepted yet; submit some in Label Studio first.")
    digest = _digest(members)
    known = session.scalars(
        select(Snapshot).where(Snapshot.digest == digest).order_by(Snapshot.id).limit(1)
    ).first()
    if known is not None:
        return known
    snapshot = Snapshot(digest=digest)
    session.add(snapshot)
    session.flush()
    session.add_all(
        SnapshotRegion(
            snapshot_id=snapshot.id,
            image_id=member.image_id,
            label=member.label,
            mask=member.mask,
            split=member.split,
        )
        for member in members
    )
    session.flush()
    return snapshot


def snapshot_regions(session: Session, snapshot: Snapshot, split: Split) -> list[SnapshotRegion]:
    """The members of one side of the split, in the order they were frozen in."""
    statement = select(SnapshotRegion).where(
        SnapshotRegion.snapshot_id == snapshot.id, SnapshotRegion.split == split
    )
    return list(session.scalars(statement.order_by(SnapshotRegion.id)))


def last_judged(session: Session) -> Snapshot | None:
    """The newest snapshot whose candidate the gate has judged."""
    statement = (
        select(Snapshot)
        .join(ModelVersion, ModelVersion.snapshot_id == Snapshot.id)
        .join(GateDecision, GateDecision.candidate_id == ModelVersion.id)
        .order_by(GateDecision.id.desc())
        .limit(1)
    )
    return session.scalars(statement).first()


def accepted_since(session: Session, moment: datetime | None) -> int:
    """How many regions were accepted or changed after ``moment``; all of them for None.

    With a region that changed, those of the same annotation count too.
    """
    statement = _accepted(select(func.count(Region.id)))
    if moment is not None:
        statement = statement.where(Annotation.seen_at > moment)
    return session.scalar(statement) or 0


def is_judged(session: Session) -> bool:
    """Whether the gate judged exactly what is accepted now."""
    statement = (
        select(GateDecision.id)
        .join(ModelVersion, ModelVersion.id == GateDecision.candidate_id)
        .join(Snapshot, Snapshot.id == ModelVersion.snapshot_id)
        .where(Snapshot.digest == _digest(_current(session)))
    )
    return session.scalar(statement.limit(1)) is not None


def first_accepted_at(session: Session) -> datetime | None:
    """When the oldest region that still counts was accepted."""
    return session.scalar(_accepted(select(func.min(Region.created_at))))


def _current(session: Session) -> list[Member]:
    columns = select(Region.image_id, Image.sha256, Region.label, Region.mask, Image.split)
    rows = session.execute(_accepted(columns.join(Image, Image.id == Region.image_id)))
    # Two annotators who accept the very same mask say the same thing once.
    members = {member.fingerprint: member for member in (Member(*row) for row in rows)}
    return [members[fingerprint] for fingerprint in sorted(members)]


def _accepted(statement: Select[*Columns]) -> Select[*Columns]:
    """Only regions of annotations that stand."""
    return statement.join(Annotation, Annotation.id == Region.annotation_id).where(
        Annotation.stands()
    )


def _digest(members: Sequence[Member]) -> str:
    text = "\n".join(f"{member.fingerprint} {member.split}" for member in members)
    return hashlib.sha256(text.encode()).hexdigest()
