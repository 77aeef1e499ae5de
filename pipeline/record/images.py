"""Rows of images, which are identified by the SHA-256 of their bytes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from pipeline.errors import UnknownRecordError
from pipeline.record.tables import Image, Task


def get(session: Session, image_id: int) -> Image:
    """The image with this id.

    Raises:
        UnknownRecordError: there is none.
    """
    image = session.get(Image, image_id)
    if image is None:
        raise UnknownRecordError(
            f"There is no image number {image_id}; encode its task again to register it."
        )
    return image


def by_sha256(session: Session, sha256: str) -> Image | None:
    """The image whose bytes have this SHA-256, if it is known."""
    return session.scalars(select(Image).where(Image.sha256 == sha256)).one_or_none()


def add(session: Session, image: Image) -> Image:
    """Write a new image; if another process wrote it first, return the row of that process."""
    try:
        with session.begin_nested():
            session.add(image)
    except IntegrityError:
        return session.scalars(select(Image).where(Image.sha256 == image.sha256)).one()
    return image


def by_id(session: Session, wanted: Sequence[int]) -> dict[int, Image]:
    """The images with these ids, by id; an id without a row is left out."""
    return {image.id: image for image in session.scalars(select(Image).where(Image.id.in_(wanted)))}


def shown(session: Session) -> list[int]:
    """Ids of the images that at least one task shows, oldest first."""
    on_tasks = select(Task.image_id).where(Task.status != "deleted")
    return list(session.scalars(select(Image.id).where(Image.id.in_(on_tasks)).order_by(Image.id)))


def count(session: Session, *, holdout: bool = False) -> int:
    """How many images there are, or how many of them are held out."""
    statement = select(func.count(Image.id))
    if holdout:
        statement = statement.where(Image.split == "holdout")
    return session.scalar(statement) or 0
