"""The registry: every model version's weights in the store, and the one that is serving.

Which version serves is a row (``pipeline.record.versions``); this file brings rows and weights
together.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.errors import CheckpointError
from pipeline.errors import EmbeddingStoreError
from pipeline.record.tables import ModelVersion, Snapshot, now
from pipeline.record.versions import (
    decision,
    find,
    hold_serving,
    promote,
    refuse,
    rollback,
    serving,
    versions,
)
from pipeline.registry.weights import (
    add_weights,
    by_digest,
    file_digest,
    read_weights,
    store_key,
)
from pipeline.settings import Settings
from pipeline.storage.store import Store

if TYPE_CHECKING:  # torch takes seconds to import; whoever only lists versions does not wait
    from model.network.segnext import SegNext

__all__ = [
    "add_candidate",
    "decision",
    "device",
    "ensure_base",
    "find",
    "hold_serving",
    "load_to_serve",
    "load_version",
    "named_file",
    "named_version",
    "promote",
    "refuse",
    "rollback",
    "serving",
    "versions",
]

log = logging.getLogger(__name__)


def ensure_base(session: Session, store: Store, settings: Settings) -> ModelVersion:
    """The version that fine-tunes start from; registered on first use, serving if nothing is.

    Raises:
        CheckpointError: the base checkpoint is missing or damaged.
    """
    path = named_file(settings)
    if path is None:
        known = named_version(session, settings)
    else:
        known = by_digest(session, file_digest(path)) or add_weights(
            session, store, read_weights(path), name="base"
        )
    if serving(session) is None:
        hold_serving(session)
        if serving(session) is None:
            promote(session, known)
    return known


def named_file(settings: Settings, name: str | None = None) -> Path | None:
    """The checkpoint's file that ``name`` means; None where it means a model version, if anything.

    Whoever takes "a file or a version" asks here, then ``named_version``: a file comes first.

    Args:
        name: None: the base of the settings, else the checkpoint that ships.
    """
    wanted = settings.model.base if name is None else Path(name)
    if wanted is None:
        from model.checkpoints import files as checkpoints

        return checkpoints.default_checkpoint()
    return wanted if wanted.is_file() else None


def named_version(session: Session, settings: Settings, name: str | None = None) -> ModelVersion:
    """The model version that ``name`` means, where it means no file; None: the settings' base.

    Raises:
        CheckpointError: it means no version either.
    """
    wanted = str(settings.model.base) if name is None else name
    version = session.scalars(select(ModelVersion).where(ModelVersion.name == wanted)).first()
    if version is None:
        of_settings = "mend the setting model.base"
        remedy = of_settings if name is None else "`maskloop models list` names the versions"
        raise CheckpointError(f"{wanted} is neither a file nor a model version; {remedy}.")
    return version


def load_version(version: ModelVersion, store: Store, settings: Settings) -> SegNext:
    """The network of ``version`` on the device of the settings, in float32.

    Raises:
        CheckpointError: its weights are missing, or not the bytes that were registered.
    """
    from model.checkpoints import files as checkpoints

    try:
        path = store.local_path(version.key)
    except EmbeddingStoreError as error:
        raise CheckpointError(
            f"The weights of {version.name} are missing from the store; "
            "put the file back, or roll back with `maskloop models rollback`."
        ) from error
    if file_digest(path) != version.sha256:
        raise CheckpointError(
            f"The weights of {version.name} are damaged in the store; "
            "put the file back, or roll back with `maskloop models rollback`."
        )
    return checkpoints.load(path, device=device(settings))


def load_to_serve(version: ModelVersion, store: Store, settings: Settings) -> SegNext:
    """``load_version``, in the precision of the settings."""
    from model.inference import precision

    model = load_version(version, store, settings)
    precision.lower(model, precision.choose(settings.model.precision, model))
    return model


def add_candidate(
    session: Session, store: Store, model: SegNext, snapshot: Snapshot
) -> ModelVersion:
    """Keep the weights of a fine-tuned ``model`` as a new candidate, learned from ``snapshot``."""
    from model.checkpoints import files as checkpoints

    # Exact, or the encoder that comes back would be another than the base's.
    data = checkpoints.to_bytes(model, exact=True)
    digest = hashlib.sha256(data).hexdigest()
    store.write(store_key(digest), data)
    version = ModelVersion(
        # Unique from the first moment; the readable name needs the row's number.
        name=f"candidate-{digest[:8]}-{now():%Y%m%d%H%M%S%f}",
        encoder=model.encoder_fingerprint,
        sha256=digest,
        key=store_key(digest),
        status="candidate",
        snapshot_id=snapshot.id,
    )
    session.add(version)
    session.flush()
    version.name = f"v{version.id}"
    session.flush()
    return version


def device(settings: Settings) -> str:
    """The torch device of the settings, with "auto" decided."""
    if settings.model.device != "auto":
        return settings.model.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
