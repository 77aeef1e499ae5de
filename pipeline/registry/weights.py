"""Weights on their way from a file into the registry: read, checked, kept once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from model.errors import CheckpointError
from pipeline.record.tables import ModelVersion
from pipeline.record.versions import hold_serving
from pipeline.storage.store import Store

if TYPE_CHECKING:  # torch takes seconds to import
    from model.network.segnext import SegNext


@dataclass(frozen=True)
class Weights:
    """A checkpoint that was read and checked.

    Attributes:
        data: it in our format, giving the same masks to the last bit.
        source_sha256: of the file as it came, in whatever format.
    """

    model: SegNext
    data: bytes
    source_sha256: str


def read_weights(path: Path) -> Weights:
    """Read a checkpoint in our format or the authors'.

    Raises:
        CheckpointError: it is missing, damaged, not safe to read, or changes meanwhile.
    """
    from model.checkpoints import files as checkpoints

    before = file_digest(path)
    model = checkpoints.load(path)
    with _readable(path):
        if checkpoints.is_released(path):
            data, digest = checkpoints.to_bytes(model, exact=True), file_digest(path)
        else:
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
    if digest != before:  # what would be registered need not be what was checked
        raise CheckpointError(
            f"{path.name} changed while it was read; add it again once nothing writes to it."
        )
    return Weights(model, data, digest)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex.

    Raises:
        CheckpointError: it cannot be read.
    """
    with _readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_digest(session: Session, digest: str) -> ModelVersion | None:
    """The version, no fine-tune, that was made from the file with this SHA-256, or is stored so."""
    statement = select(ModelVersion).where(
        or_(ModelVersion.sha256 == digest, ModelVersion.source_sha256 == digest),
        ModelVersion.snapshot_id.is_(None),
    )
    return session.scalars(statement.order_by(ModelVersion.id).limit(1)).first()


def add_weights(
    session: Session, store: Store, weights: Weights, *, name: str, source: str | None = None
) -> ModelVersion:
    """Register weights that came as a file, as a candidate; those known already stay one version.

    Args:
        name: of the new version; with a piece of the checksum behind it where it is taken.
        source: where the file came from, for people to read.
    """
    digest = hashlib.sha256(weights.data).hexdigest()
    store.write(store_key(digest), weights.data)  # over what was there, which may be damaged
    hold_serving(session)
    known = by_digest(session, digest)
    if known is not None:  # perhaps by another process, since we looked
        return known
    taken = session.scalars(select(ModelVersion.id).where(ModelVersion.name == name)).first()
    version = ModelVersion(
        name=name if taken is None else f"{name}-{digest[:8]}",
        encoder=weights.model.encoder_fingerprint,
        sha256=digest,
        key=store_key(digest),
        status="candidate",
        source=source,
        source_sha256=weights.source_sha256,
    )
    session.add(version)
    session.flush()
    return version


def store_key(digest: str) -> str:
    """Where weights with this SHA-256 lie in the store."""
    return f"models/{digest}.safetensors"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({error.strerror}); check the file."
        ) from error
