"""Rows of the projects of Label Studio that maskloop serves."""

from __future__ import annotations

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline.errors import UnknownRecordError
from pipeline.record.tables import Project


def put(session: Session, ls_project_id: int, title: str) -> Project:
    """Note that a project is connected; one that was paused runs again."""
    row = find(session, ls_project_id)
    if row is None:
        row = Project(ls_project_id=ls_project_id, title=title)
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:  # Another process wrote it since we looked.
            row = get(session, ls_project_id)
    row.title, row.paused = title, False
    return row


def find(session: Session, ls_project_id: int) -> Project | None:
    """The row of a project by Label Studio's number, if it was connected."""
    statement = select(Project).where(Project.ls_project_id == ls_project_id)
    return session.scalars(statement).one_or_none()


def get(session: Session, ls_project_id: int) -> Project:
    """The row of a project.

    Raises:
        UnknownRecordError: it was never connected.
    """
    row = find(session, ls_project_id)
    if row is None:
        raise UnknownRecordError(
            f"Project {ls_project_id} is not connected; run `maskloop projects connect "
            f"{ls_project_id}`."
        )
    return row


def everyone(session: Session) -> list[Project]:
    """All connected projects, in the order in which they were connected."""
    return list(session.scalars(select(Project).order_by(Project.id)))


def active(session: Session, named: int | None) -> list[int]:
    """Label Studio's numbers of the projects that run by themselves, oldest first.

    Args:
        named: the project of the settings. It counts although nobody connected it, because older
            versions of maskloop kept no list of projects.
    """
    rows = everyone(session)
    known = {row.ls_project_id for row in rows}
    first = [named] if named is not None and named not in known else []
    return first + [row.ls_project_id for row in rows if not row.paused]


def remove(session: Session, ls_project_id: int) -> None:
    """Forget that a project is connected; its tasks and masks stay in the record."""
    session.execute(delete(Project).where(Project.ls_project_id == ls_project_id))
