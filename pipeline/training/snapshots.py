"""Snapshots: frozen sets of the accepted regions that a fine-tune learns from.

A snapshot is identified by the digest of its members. The same members give the same snapshot, so
a fine-tune that was already judged is recognised by every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sqlalchemy.orm import Session, sessionmaker

from pipeline.errors import NotEnoughDataError
from pipeline.record import regions, snapshots
from pipeline.record.engine import lock
from pipeline.record.regions import Content
from pipeline.record.tables import Snapshot, SnapshotRegion


def take_snapshot(sessions: sessionmaker[Session]) -> Snapshot:
    """Freeze the masks that are accepted now, or return the earlier snapshot with these members.

    Raises:
        NotEnoughDataError: nothing is accepted yet.
    """
    with sessions() as session:
        known = snapshots.by_digest(session, _digest(regions.contents(session)))
        if known is not None:
            return known
        accepted = regions.with_contents(session)
    if not accepted:
        raise NotEnoughDataError("No mask is accepted yet; submit some in Label Studio first.")
    # When two annotators accept exactly the same mask, it counts once.
    members = {_fingerprint(content): (region, content) for region, content in accepted}
    frozen = [
        SnapshotRegion(
            image_id=region.image_id, label=region.label, mask=region.mask, split=content.split
        )
        for _, (region, content) in sorted(members.items())
    ]
    digest = _digest(content for _, content in accepted)
    with sessions.begin() as session:
        lock(session, "snapshot")  # Two processes at once make one snapshot.
        return snapshots.by_digest(session, digest) or snapshots.add(session, digest, frozen)


def is_judged(session: Session) -> bool:
    """Whether the gate has judged exactly the masks that are accepted now."""
    return snapshots.judgement(session, _digest(regions.contents(session))) is not None


def _fingerprint(content: Content) -> str:
    text = f"{content.image_sha256}\0{content.label}\0{content.mask_sha256}"
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(contents: Iterable[Content]) -> str:
    """Identifies a set of members, in whatever order and however often they are given."""
    members = {f"{_fingerprint(content)} {content.split}" for content in contents}
    return hashlib.sha256("\n".join(sorted(members)).encode()).hexdigest()
