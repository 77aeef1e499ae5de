"""Embeddings by image: from memory, else from the store, else computed. Each is computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session, sessionmaker

from model.errors import CheckpointError
from model.network.embedding import Embedding
from model.network.prediction import Window
from model.network.segnext import SegNext
from pipeline.errors import StoreError
from pipeline.images.catalog import read_image
from pipeline.record import embeddings, images, tables
from pipeline.settings import Settings
from pipeline.storage.cache import Cache
from pipeline.storage.store import Store

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
_Held = tuple[int, str, str, Window | None]  # key of an embedding in memory

_DIGEST = 16  # bytes of the checksum in front of each entry, which reveals damage


@dataclass(frozen=True)
class EmbeddingKey:
    """Everything that an embedding depends on. The decoder is not part of it, so an embedding stays
    valid after a fine-tune."""

    sha256: str  # of the image's bytes
    encoder: str  # fingerprint of its weights
    preprocess: str

    @property
    def path(self) -> str:
        """The key in the store."""
        folder = f"embeddings/{self.encoder}/{self.preprocess}/{self.sha256[:2]}"
        return f"{folder}/{self.sha256}.safetensors"


class Embeddings:
    """Gives embeddings to threads of one process; several processes may share the store.

    Memory holds at most ``settings.model.cache_mb``; the least recently used embeddings are removed
    first. A window of an image has its own embedding, in memory only. Nearly every object gets one,
    so they would fill the store, and computing one again takes no longer than reading it.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: Store,
        settings: Settings,
        encode: Callable[[SegNext, Pixels], Embedding] | None = None,
    ) -> None:
        # Replaces ``SegNext.encode`` for a caller whose threads must take turns.
        self._encode = encode or (lambda model, pixels: model.encode(pixels))
        self._sessions = sessions
        self._store = store
        self._settings = settings
        self._memory = Cache[_Held, Embedding](settings.model.cache_mb * 1_000_000, _n_bytes)
        # Several windows of one image are usual, and decoding a large image takes a second.
        self._pixels = Cache[str, Pixels](settings.images.cache_mb * 1_000_000, _nbytes)

    def get(self, image_id: int, model: SegNext, window: Window | None = None) -> Embedding:
        """The embedding of an image or a window of it, with half-precision tensors on the CPU.

        Threads that ask for an embedding while it is being made wait for it. A damaged entry of the
        store is made again; an embedding that cannot be written to the store is still returned.

        Raises:
            UnknownRecordError: there is no such image.
            StoreError, ImageError: it has to be computed and the image cannot be read.
        """

        def make() -> Embedding:
            if window is None:
                return self._find_or_make(image_id, model)
            return self._look(image_id, model, window)

        return self._memory.get(_held(image_id, model, window), make)

    def has(self, image_id: int, model: SegNext) -> bool:
        """Whether the embedding is in the store, so that ``get`` will not have to compute it."""
        with self._sessions() as session:
            row = embeddings.find(session, image_id, model.encoder_fingerprint, model.preprocess_id)
        return row is not None and self._store.exists(row.key)

    def ensure(self, image_id: int, model: SegNext) -> bool:
        """Make sure that the embedding is in the store.

        Returns:
            Whether it had to be written now.

        Raises:
            StoreError: it could not be written to the store.
            UnknownRecordError, ImageError: as for ``get``.
        """
        if self.has(image_id, model):
            return False
        # With the embedding in memory, ``get`` would not notice that the store has lost it.
        self._memory.drop(_held(image_id, model, None))
        self.get(image_id, model)
        if not self.has(image_id, model):
            raise StoreError(
                f"The embedding of image number {image_id} could not be kept; "
                "check store_url, its space and its rights."
            )
        return True

    def _find_or_make(self, image_id: int, model: SegNext) -> Embedding:
        with self._sessions() as session:
            image = images.get(session, image_id)
            row = embeddings.find(session, image_id, model.encoder_fingerprint, model.preprocess_id)
        key = EmbeddingKey(image.sha256, model.encoder_fingerprint, model.preprocess_id)
        embedding = self._load(key)
        if embedding is None:
            pixels = read_image(self._store, image, self._settings.images)
            data = self._encode(model, pixels).to_bytes()
            # Exactly as the store will return it later, so that an answer is the same whether the
            # embedding comes from memory, from the store or from the encoder.
            embedding = Embedding.from_bytes(data)
            if not self._save(key, data):
                return embedding
        if row is None:
            self._record(image_id, key, embedding)
        return embedding

    def _look(self, image_id: int, model: SegNext, window: Window) -> Embedding:
        with self._sessions() as session:
            image = images.get(session, image_id)
        pixels = self._pixels.get(
            image.sha256, lambda: read_image(self._store, image, self._settings.images)
        )
        return Embedding.from_bytes(self._encode(model, pixels[window.slices]).to_bytes())

    def _load(self, key: EmbeddingKey) -> Embedding | None:
        """The embedding in the store; None when it is missing or cannot be used."""
        try:
            if not self._store.exists(key.path):
                return None
            return Embedding.from_bytes(unseal(self._store.read(key.path)))
        except (StoreError, CheckpointError) as error:
            log.warning("Computing the embedding %s again: %s", key.path, error)
            return None

    def _save(self, key: EmbeddingKey, data: bytes) -> bool:
        try:
            self._store.write(key.path, seal(data))
        except StoreError as error:  # the annotator must still get a mask
            log.warning("An embedding is lost to later processes: %s", error)
            return False
        return True

    def _record(self, image_id: int, key: EmbeddingKey, embedding: Embedding) -> None:
        row = tables.Embedding(
            image_id=image_id,
            encoder=key.encoder,
            preprocess=key.preprocess,
            key=key.path,
            n_bytes=embedding.n_bytes,
            vector=embedding.vector().tobytes(),
        )
        embeddings.add(self._sessions, row)


def _held(image_id: int, model: SegNext, window: Window | None) -> _Held:
    return image_id, model.encoder_fingerprint, model.preprocess_id, window


def _n_bytes(embedding: Embedding) -> int:
    return embedding.n_bytes


def _nbytes(pixels: Pixels) -> int:
    return pixels.nbytes


def seal(data: bytes) -> bytes:
    """``data`` with its digest in front (BLAKE2b, 16 bytes)."""
    return hashlib.blake2b(data, digest_size=_DIGEST).digest() + data


def unseal(entry: bytes) -> bytes:
    """The data of a sealed entry. Raises StoreError when any bit of it has changed."""
    digest, data = entry[:_DIGEST], entry[_DIGEST:]
    if hashlib.blake2b(data, digest_size=_DIGEST).digest() != digest:
        raise StoreError(
            "An entry of the embedding store is damaged; delete it and it is made again."
        )
    return data
