"""The life of model versions in SQL. No weights here, see ``pipeline.registry.base`` for those.

``candidate`` -> ``serving`` -> ``retired`` is the life of a version that the gate let through;
``candidate`` -> ``refused`` of one it did not. At most one serves; the database enforces it.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.errors import UnknownRecordError
from pipeline.record.engine import lock
from pipeline.record.tables import GateDecision, ModelVersion, now


def serving(session: Session) -> ModelVersion | None:
    """The version that answers clicks, if one is chosen yet."""
    return session.scalars(select(ModelVersion).where(ModelVersion.status == "serving")).first()


def versions(session: Session) -> list[ModelVersion]:
    """All versions, newest first."""
    return list(session.scalars(select(ModelVersion).order_by(ModelVersion.id.desc())))


def find(session: Session, name: str) -> ModelVersion:
    """The version called ``name``.

    Raises:
        UnknownRecordError: there is none.
    """
    version = session.scalars(select(ModelVersion).where(ModelVersion.name == name)).first()
    if version is None:
        raise UnknownRecordError(
            f"There is no model version {name!r}; `maskloop models list` names them all."
        )
    return version


def decision(session: Session, version: ModelVersion) -> GateDecision | None:
    """How the gate judged ``version``, if it did; the newest judgement."""
    statement = select(GateDecision).where(GateDecision.candidate_id == version.id)
    return session.scalars(statement.order_by(GateDecision.id.desc()).limit(1)).first()


def hold_serving(session: Session) -> None:
    """Keep every other process from changing what serves until this transaction ends."""
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
    """Note that the gate turned ``version`` down; one that somebody let serve meanwhile stays."""
    if version.status == "candidate":
        version.status = "refused"
        session.flush()


def rollback(session: Session) -> ModelVersion:
    """Serve again what served before the present version; returns it.

    Times of promotion stay as they are, so a second rollback goes one further back.

    Raises:
        UnknownRecordError: nothing served before.
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
    return previous


def _swap(session: Session, current: ModelVersion | None, following: ModelVersion) -> None:
    if current is not None:
        current.status = "retired"
        session.flush()  # first, or the index that allows one serving row would refuse the second
    following.status = "serving"
    session.flush()
