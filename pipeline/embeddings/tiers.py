"""Embeddings by image: from memory, else from the store, else computed; each computed once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from model.errors import CheckpointError
from model.network.embedding import Embedding
from model.network.prediction import Window
from model.network.segnext import SegNext
from pipeline.errors import EmbeddingStoreError, UnknownRecordError
from pipeline.images.catalog import read_image
from pipeline.record import tables
from pipeline.settings import Settings
from pipeline.storage.cache import Cache
from pipeline.storage.store import Store

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]
_Held = tuple[int, str, str, Window | None]  # what memory holds an embedding by

_DIGEST = 16  # bytes in front of each entry, so that damage anywhere in it shows


@dataclass(frozen=True)
class EmbeddingKey:
    """What an embedding depends on: nothing of the decoder, so fine-tunes leave it valid."""

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

    Memory holds at most ``settings.model.cache_mb``; the least recently used go first. A window of
    an image has an embedding of its own, in memory only: nearly every object gets one, which nobody
    would ever remove from the store, and it is made again as soon as read.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        store: Store,
        settings: Settings,
        encode: Callable[[SegNext, Pixels], Embedding] | None = None,
    ) -> None:
        # Stands in for ``SegNext.encode``, for a caller whose threads take turns.
        self._encode = encode or (lambda model, pixels: model.encode(pixels))
        self._sessions = sessions
        self._store = store
        self._settings = settings
        self._memory = Cache[_Held, Embedding](settings.model.cache_mb * 1_000_000, _n_bytes)
        # Windows follow each other on one image, and a large one takes a second to decode.
        self._pixels = Cache[str, Pixels](settings.images.cache_mb * 1_000_000, _nbytes)

    def get(self, image_id: int, model: SegNext, window: Window | None = None) -> Embedding:
        """The embedding of an image or a window of it, with half-precision tensors on the CPU.

        Threads that ask for the same one while it is made wait for it. A damaged entry of the
        store is made anew; an embedding that the store cannot take is given all the same.

        Raises:
            UnknownRecordError: there is no such image.
            EmbeddingStoreError, ImageError: it has to be computed and the image cannot be read.
        """

        def make() -> Embedding:
            if window is None:
                return self._find_or_make(image_id, model)
            return self._look(image_id, model, window)

        return self._memory.get(_held(image_id, model, window), make)

    def has(self, image_id: int, model: SegNext) -> bool:
        """Whether the embedding is in the store, so that ``get`` will not have to compute it."""
        with self._sessions() as session:
            row = _row(session, image_id, model.encoder_fingerprint, model.preprocess_id)
        return row is not None and self._store.exists(row.key)

    def ensure(self, image_id: int, model: SegNext) -> bool:
        """See to it that the embedding is in the store; whether it had to be put there.

        Raises:
            EmbeddingStoreError: the store did not take it.
            UnknownRecordError, ImageError: as ``get``.
        """
        if self.has(image_id, model):
            return False
        # What memory holds would hide that the store lost it.
        self._memory.drop(_held(image_id, model, None))
        self.get(image_id, model)
        if not self.has(image_id, model):
            raise EmbeddingStoreError(
                f"The embedding of image number {image_id} could not be kept; "
                "check store_url, its space and its rights."
            )
        return True

    def _find_or_make(self, image_id: int, model: SegNext) -> Embedding:
        with self._sessions() as session:
            image = _image(session, image_id)
            row = _row(session, image_id, model.encoder_fingerprint, model.preprocess_id)
        key = EmbeddingKey(image.sha256, model.encoder_fingerprint, model.preprocess_id)
        embedding = self._load(key)
        if embedding is None:
            pixels = read_image(self._store, image, self._settings.images)
            data = self._encode(model, pixels).to_bytes()
            # What the store will give from now on, so that an answer never depends on the tier.
            embedding = Embedding.from_bytes(data)
            if not self._save(key, data):
                return embedding
        if row is None:
            self._record(image_id, key, embedding)
        return embedding

    def _look(self, image_id: int, model: SegNext, window: Window) -> Embedding:
        with self._sessions() as session:
            image = _image(session, image_id)
        pixels = self._pixels.get(
            image.sha256, lambda: read_image(self._store, image, self._settings.images)
        )
        return Embedding.from_bytes(self._encode(model, pixels[window.slices]).to_bytes())

    def _load(self, key: EmbeddingKey) -> Embedding | None:
        """From the store; None when it is not there or cannot be used."""
        try:
            if not self._store.exists(key.path):
                return None
            return Embedding.from_bytes(unseal(self._store.read(key.path)))
        except (EmbeddingStoreError, CheckpointError) as error:
            log.warning("Computing the embedding %s again: %s", key.path, error)
            return None

    def _save(self, key: EmbeddingKey, data: bytes) -> bool:
        try:
            self._store.write(key.path, seal(data))
        except EmbeddingStoreError as error:  # whoever clicked must still get a mask
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
        try:
            with self._sessions.begin() as session:
                session.add(row)
        except IntegrityError:
            log.debug("Another process recorded %s first.", key.path)


def _held(image_id: int, model: SegNext, window: Window | None) -> _Held:
    return image_id, model.encoder_fingerprint, model.preprocess_id, window


def _n_bytes(embedding: Embedding) -> int:
    return embedding.n_bytes


def _nbytes(pixels: Pixels) -> int:
    return pixels.nbytes


def seal(data: bytes) -> bytes:
    """``data`` behind its digest."""
    return hashlib.blake2b(data, digest_size=_DIGEST).digest() + data


def unseal(entry: bytes) -> bytes:
    """The data of a sealed entry. Raises EmbeddingStoreError when a bit of it changed."""
    digest, data = entry[:_DIGEST], entry[_DIGEST:]
    if hashlib.blake2b(data, digest_size=_DIGEST).digest() != digest:
        raise EmbeddingStoreError(
            "An entry of the embedding store is damaged; delete it and it is made again."
        )
    return data


def _image(session: Session, image_id: int) -> tables.Image:
    image = session.get(tables.Image, image_id)
    if image is None:
        raise UnknownRecordError(
            f"There is no image number {image_id}; encode its task again to register it."
        )
    return image


def _row(session: Session, image_id: int, encoder: str, preprocess: str) -> tables.Embedding | None:
    return session.scalars(
        select(tables.Embedding).where(
            tables.Embedding.image_id == image_id,
            tables.Embedding.encoder == encoder,
            tables.Embedding.preprocess == preprocess,
        )
    ).one_or_none()
