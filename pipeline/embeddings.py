"""Embeddings by image: from memory, else from the store, else computed; each computed once."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from model.embedding import Embedding
from model.errors import CheckpointError
from model.segnext import SegNext
from pipeline import tables
from pipeline.catalog import read_image
from pipeline.errors import EmbeddingStoreError, UnknownRecordError
from pipeline.settings import Settings
from pipeline.store import Store

log = logging.getLogger(__name__)

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

    Memory holds at most ``settings.model.cache_mb``; the least recently used go first.
    """

    def __init__(self, sessions: sessionmaker[Session], store: Store, settings: Settings) -> None:
        self._sessions = sessions
        self._store = store
        self._settings = settings
        self._memory = _Memory(settings.model.cache_mb * 1_000_000)
        self._flights: dict[tuple[int, str, str], Future[Embedding]] = {}
        self._lock = threading.Lock()

    def get(self, image_id: int, model: SegNext) -> Embedding:
        """The embedding of an image, with half-precision tensors on the CPU.

        Threads that ask for the same one while it is made wait for it. A damaged entry of the
        store is made anew; an embedding that the store cannot take is given all the same.

        Raises:
            UnknownRecordError: there is no such image.
            EmbeddingStoreError, ImageError: it has to be computed and the image cannot be read.
        """
        key = (image_id, model.encoder_fingerprint, model.preprocess_id)
        with self._lock:
            held = self._memory.get(key)
            if held is not None:
                return held
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._flights[key] = Future()
        if not mine:
            return flight.result()
        try:
            embedding = self._find_or_make(image_id, model)
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            flight.set_exception(error)
            raise
        with self._lock:
            self._memory.put(key, embedding)
            del self._flights[key]
        flight.set_result(embedding)
        return embedding

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
        with self._lock:  # what memory holds would hide that the store lost it
            self._memory.drop((image_id, model.encoder_fingerprint, model.preprocess_id))
        self.get(image_id, model)
        if not self.has(image_id, model):
            raise EmbeddingStoreError(
                f"The embedding of image number {image_id} could not be kept; "
                "check store_url, its space and its rights."
            )
        return True

    def _find_or_make(self, image_id: int, model: SegNext) -> Embedding:
        with self._sessions() as session:
            image = session.get(tables.Image, image_id)
            row = _row(session, image_id, model.encoder_fingerprint, model.preprocess_id)
        if image is None:
            raise UnknownRecordError(
                f"There is no image number {image_id}; encode its task again to register it."
            )
        key = EmbeddingKey(image.sha256, model.encoder_fingerprint, model.preprocess_id)
        stored = self._load(key)
        if stored is None:
            pixels = read_image(self._store, image, self._settings.images)
            data = model.encode(pixels).to_bytes()
            # What the store will give from now on, so that an answer never depends on the tier.
            embedding = Embedding.from_bytes(data)
            if not self._save(key, data):
                return embedding
        else:
            embedding = stored
        if row is None:
            self._record(image_id, key, embedding)
        return embedding

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


class _Memory:
    """Least-recently-used embeddings up to a size in bytes. The caller holds the lock."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[int, str, str], Embedding] = OrderedDict()

    def get(self, key: tuple[int, str, str]) -> Embedding | None:
        if key not in self._entries:
            return None
        self._entries.move_to_end(key)
        return self._entries[key]

    def drop(self, key: tuple[int, str, str]) -> None:
        dropped = self._entries.pop(key, None)
        self._bytes -= dropped.n_bytes if dropped else 0

    def put(self, key: tuple[int, str, str], embedding: Embedding) -> None:
        if embedding.n_bytes > self._max_bytes:
            return
        self.drop(key)
        self._bytes += embedding.n_bytes
        self._entries[key] = embedding
        while self._bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self._bytes -= oldest.n_bytes


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


def _row(session: Session, image_id: int, encoder: str, preprocess: str) -> tables.Embedding | None:
    return session.scalars(
        select(tables.Embedding).where(
            tables.Embedding.image_id == image_id,
            tables.Embedding.encoder == encoder,
            tables.Embedding.preprocess == preprocess,
        )
    ).one_or_none()
