"""Rows of snapshots: frozen sets of the accepted regions that a fine-tune learns from."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from pipeline.record.tables import GateDecision, ModelVersion, Snapshot, SnapshotRegion
from pipeline.record.tables.image import Split


def by_digest(session: Session, digest: str) -> Snapshot | None:
    """The oldest snapshot with these members, if there is one."""
    statement = select(Snapshot).where(Snapshot.digest == digest)
    return session.scalars(statement.order_by(Snapshot.id).limit(1)).first()


def add(session: Session, digest: str, members: Sequence[SnapshotRegion]) -> Snapshot:
    """Write a snapshot with its members."""
    snapshot = Snapshot(digest=digest)
    session.add(snapshot)
    session.flush()
    for member in members:
        member.snapshot_id = snapshot.id
    session.add_all(members)
    session.flush()
    return snapshot


def regions(session: Session, snapshot: Snapshot, split: Split) -> list[SnapshotRegion]:
    """The members on one side of the split, in the order in which they were frozen."""
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


def judged_before_newest(session: Session, count: int) -> list[int]:
    """Ids of the judged snapshots that still have members, without the newest ``count``."""
    judged = (
        select(Snapshot.id)
        .join(ModelVersion, ModelVersion.snapshot_id == Snapshot.id)
        .join(GateDecision, GateDecision.candidate_id == ModelVersion.id)
        .order_by(Snapshot.id.desc())
        .distinct()
    )
    old = list(session.scalars(judged))[count:]
    members = select(SnapshotRegion.snapshot_id).where(SnapshotRegion.snapshot_id.in_(old))
    return list(session.scalars(members.distinct()))


def delete_members(session: Session, snapshot_id: int) -> None:
    """Remove the masks of a snapshot. Its digest stays, so what was judged is not trained again."""
    session.execute(delete(SnapshotRegion).where(SnapshotRegion.snapshot_id == snapshot_id))


def judgement(session: Session, digest: str) -> str | None:
    """The gate's reason about a candidate trained on these members, if the gate judged one."""
    statement = (
        select(GateDecision.reason)
        .join(ModelVersion, ModelVersion.id == GateDecision.candidate_id)
        .join(Snapshot, Snapshot.id == ModelVersion.snapshot_id)
        .where(Snapshot.digest == digest)
    )
    return session.scalars(statement.order_by(GateDecision.id.desc()).limit(1)).first()
