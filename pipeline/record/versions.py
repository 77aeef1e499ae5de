"""Rows of model versions and of the gate's decisions. ``pipeline.registry`` holds the weights.

A version that the gate accepts goes through ``candidate`` -> ``serving`` -> ``retired``; one that
it rejects goes from ``candidate`` to ``refused``. At most one version serves; the database
enforces this.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from pipeline.errors import UnknownRecordError
from pipeline.record.engine import lock
from pipeline.record.tables import GateDecision, ModelVersion, now


def serving(session: Session) -> ModelVersion | None:
    """The version that answers clicks, if one is chosen yet."""
    return session.scalars(select(ModelVersion).where(ModelVersion.status == "serving")).first()


def serving_id(session: Session) -> int | None:
    """Id of the version that answers clicks, if one is chosen yet."""
    return session.scalars(select(ModelVersion.id).where(ModelVersion.status == "serving")).first()


def versions(session: Session) -> list[ModelVersion]:
    """All versions, newest first."""
    return list(session.scalars(select(ModelVersion).order_by(ModelVersion.id.desc())))


def names(session: Session) -> dict[int, str]:
    """The names of all versions, by id."""
    return {version.id: version.name for version in versions(session)}


def find(session: Session, name: str) -> ModelVersion:
    """The version called ``name``.

    Raises:
        UnknownRecordError: there is none.
    """
    version = named(session, name)
    if version is None:
        raise UnknownRecordError(
            f"There is no model version {name!r}; `maskloop models list` names them all."
        )
    return version


def named(session: Session, name: str) -> ModelVersion | None:
    """The version called ``name``, if there is one."""
    return session.scalars(select(ModelVersion).where(ModelVersion.name == name)).first()


def by_digest(session: Session, digest: str) -> ModelVersion | None:
    """The oldest version that was made from the file with this SHA-256 or is stored under it.

    Fine-tunes are left out.
    """
    statement = select(ModelVersion).where(
        or_(ModelVersion.sha256 == digest, ModelVersion.source_sha256 == digest),
        ModelVersion.snapshot_id.is_(None),
    )
    return session.scalars(statement.order_by(ModelVersion.id).limit(1)).first()


def by_source(session: Session, source: str) -> ModelVersion | None:
    """The oldest version whose weights came from ``source``."""
    statement = select(ModelVersion).where(ModelVersion.source == source)
    return session.scalars(statement.order_by(ModelVersion.id)).first()


def unjudged(session: Session, snapshot_id: int, encoder: str) -> ModelVersion | None:
    """A candidate with this encoder that was trained on a snapshot and is not judged yet."""
    return session.scalars(
        select(ModelVersion).where(
            ModelVersion.snapshot_id == snapshot_id,
            ModelVersion.status == "candidate",
            ModelVersion.encoder == encoder,
        )
    ).first()


def decision(session: Session, version: ModelVersion) -> GateDecision | None:
    """The gate's newest decision about ``version``, if there is one."""
    statement = select(GateDecision).where(GateDecision.candidate_id == version.id)
    return session.scalars(statement.order_by(GateDecision.id.desc()).limit(1)).first()


def last_decision(session: Session) -> tuple[GateDecision, str] | None:
    """The gate's newest decision and the name of the candidate, if there is one."""
    newest = select(GateDecision, ModelVersion.name).join(
        ModelVersion, ModelVersion.id == GateDecision.candidate_id
    )
    row = session.execute(newest.order_by(GateDecision.id.desc()).limit(1)).first()
    return None if row is None else (row[0], row[1])


def refused_before(session: Session, moment: datetime) -> list[str]:
    """Keys in the store of weights that were refused, never served, and are older than ``moment``;
    none that another version uses."""
    never_served = ModelVersion.status == "refused", ModelVersion.promoted_at.is_(None)
    others = select(ModelVersion.key).where(
        or_(ModelVersion.status != "refused", ModelVersion.promoted_at.is_not(None))
    )
    statement = select(ModelVersion.key).where(
        *never_served, ModelVersion.created_at < moment, ModelVersion.key.not_in(others)
    )
    return list(session.scalars(statement.distinct()))


def hold_serving(session: Session) -> None:
    """Prevent other processes from changing the serving version until this transaction ends."""
    lock(session, "serving")


def promote(session: Session, version: ModelVersion) -> None:
    """Make ``version`` the one that serves; the one that served is retired."""
    hold_serving(session)
    current = serving(session)
    if current is not None and current.id == version.id:
        return
    _swap(session, current, version)
    version.promoted_at = now()
    session.flush()


def refuse(session: Session, version: ModelVersion) -> None:
    """Note that the gate refused ``version``; a version promoted meanwhile keeps serving."""
    if version.status == "candidate":
        version.status = "refused"
        session.flush()


def rollback(session: Session) -> ModelVersion:
    """Let the version that served before the present one serve again; returns that version.

    The version that is left counts as refused, so that no later rollback comes back to it. The
    times of promotion do not change, so a second rollback goes back one more version.

    Raises:
        UnknownRecordError: no version served before.
    """
    hold_serving(session)
    current = serving(session)
    statement = select(ModelVersion).where(
        ModelVersion.status == "retired", ModelVersion.promoted_at.is_not(None)
    )
    if current is not None and current.promoted_at is not None:
        statement = statement.where(ModelVersion.promoted_at < current.promoted_at)
    statement = statement.order_by(ModelVersion.promoted_at.desc(), ModelVersion.id.desc())
    previous = session.scalars(statement.limit(1)).first()
    if previous is None:
        raise UnknownRecordError(
            "No earlier model version to go back to; `maskloop models promote NAME` picks any."
        )
    _swap(session, current, previous)
    if current is not None:
        current.status = "refused"
        session.flush()
    return previous


def _swap(session: Session, current: ModelVersion | None, following: ModelVersion) -> None:
    if current is not None:
        current.status = "retired"
        session.flush()  # First, because the index allows only one serving row at a time.
    following.status = "serving"
    session.flush()
