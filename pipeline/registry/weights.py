"""Reads and checks the weights of a checkpoint file before they are registered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import CheckpointError

if TYPE_CHECKING:  # torch takes seconds to import
    from model.network.segnext import SegNext


@dataclass(frozen=True)
class Weights:
    """A checkpoint that was read and checked.

    Attributes:
        data: the checkpoint in our format; it gives exactly the same masks.
        source_sha256: of the original file, in any format.
    """

    model: SegNext
    data: bytes
    source_sha256: str


def read_weights(path: Path) -> Weights:
    """Read a checkpoint in our format or the authors'.

    Raises:
        CheckpointError: it is missing, damaged or not safe to read, or it changes while it is read.
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
    if digest != before:  # the registered bytes might not be the checked ones
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


def store_key(digest: str) -> str:
    """The key in the store of weights with this SHA-256."""
    return f"models/{digest}.safetensors"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({error.strerror}); check the file."
        ) from error
