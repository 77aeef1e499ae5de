"""Tests of the module ``tiers``.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as Pillow
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from model.network.config import SegNextConfig
from model.network.embedding import Embedding
from model.network.prediction import Window
from model.network.segnext import SegNext
from pipeline.embeddings.tiers import EmbeddingKey, Embeddings, seal, unseal
from pipeline.errors import StoreError, UnknownRecordError
from pipeline.images import catalog
from pipeline.images.catalog import Catalog, image_key, read_image
from pipeline.images.source import ImageSource
from pipeline.record import schema, tables
from pipeline.record.engine import make_engine, sessions_on
from pipeline.settings import Settings
from pipeline.storage.store import Store


class CountingSegNext(SegNext):
    """A real, small network with random weights that counts its encodes, and may take long."""

    encodes = 0
    seconds = 0.0

    def encode(self, image: npt.NDArray[np.uint8]) -> Embedding:
        self.encodes += 1
        time.sleep(self.seconds)
        return super().encode(image)


def network(seed: int = 0) -> CountingSegNext:
    torch.manual_seed(seed)
    config = SegNextConfig(
        size=64, dim=32, depth=1, heads=2, fusion_depth=1, fusion_heads=2, neck=(8, 8, 8, 8), head=8
    )
    return CountingSegNext(config).eval()


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Setup:
    def __init__(self, home: Path) -> None:
        self.settings = Settings(home=home)
        schema.upgrade(self.settings)
        self.sessions: sessionmaker[Session] = sessions_on(make_engine(self.settings))
        self.store = Store(self.settings.store_address)
        source = ImageSource(self.settings, dict)
        self.catalog = Catalog(self.sessions, self.store, source, self.settings)
        self.model = network()
        self.embeddings = self.fresh()

    def fresh(self) -> Embeddings:
        """As another process has it: nothing in memory."""
        return Embeddings(self.sessions, self.store, self.settings)

    def image(self, seed: int = 0) -> tables.Image:
        return self.catalog.register(png(seed))

    def path(self, image: tables.Image) -> Path:
        key = EmbeddingKey(image.sha256, self.model.encoder_fingerprint, self.model.preprocess_id)
        return Path(self.settings.store_address) / key.path

    def rows(self) -> int:
        with self.sessions() as session:
            return session.scalar(select(func.count(tables.Embedding.id))) or 0


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def same(a: Embedding, b: Embedding) -> bool:
    return torch.equal(a.features, b.features) and a.image_size == b.image_size


def test_computed_once_then_from_memory_then_from_the_store(setup: Setup) -> None:
    image = setup.image()
    assert not setup.embeddings.has(image.id, setup.model)
    first = setup.embeddings.get(image.id, setup.model)
    assert first.image_size == (40, 50)
    assert setup.embeddings.get(image.id, setup.model) is first
    assert setup.embeddings.has(image.id, setup.model)
    stored = setup.fresh().get(image.id, setup.model)
    assert setup.model.encodes == 1
    assert same(first, stored)  # to the bit: an answer does not depend on where it came from


def test_an_embedding_can_be_trained_on(setup: Setup) -> None:
    """Tensors made in inference mode cannot; neither tier may hand such out."""
    embedding = setup.embeddings.get(setup.image().id, setup.model)
    assert not embedding.features.is_inference()


def test_the_row_holds_the_vector(setup: Setup) -> None:
    image = setup.image()
    embedding = setup.embeddings.get(image.id, setup.model)
    with setup.sessions() as session:
        row = session.scalars(select(tables.Embedding)).one()
    vector = np.frombuffer(row.vector, np.float32)
    np.testing.assert_array_equal(vector, embedding.vector())
    assert abs(np.linalg.norm(vector) - 1) < 1e-5
    assert (row.image_id, row.n_bytes) == (image.id, embedding.n_bytes)
    assert setup.store.exists(row.key)


def test_another_encoder_has_embeddings_of_its_own(setup: Setup) -> None:
    image, other = setup.image(), network(1)
    first = setup.embeddings.get(image.id, setup.model)
    assert not setup.embeddings.has(image.id, other)
    assert not same(first, setup.embeddings.get(image.id, other))
    assert setup.rows() == 2


def test_threads_that_ask_at_once_encode_once(setup: Setup) -> None:
    image = setup.image()
    setup.model.seconds = 0.2
    gate = threading.Barrier(8)

    def ask(_: int) -> Embedding:
        gate.wait()
        return setup.embeddings.get(image.id, setup.model)

    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(ask, range(8)))
    assert setup.model.encodes == 1 and setup.rows() == 1
    assert all(each is got[0] for each in got)


def test_different_images_do_not_wait_for_each_other(setup: Setup) -> None:
    images = [setup.image(seed) for seed in range(4)]
    setup.embeddings.get(setup.image(9).id, setup.model)
    setup.model.seconds = 0.4
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda image: setup.embeddings.get(image.id, setup.model), images))
    assert time.monotonic() - began < 1.5


def test_processes_that_make_the_same_one_agree(setup: Setup) -> None:
    image = setup.image()
    several = [setup.fresh() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda each: each.get(image.id, setup.model), several))
    assert setup.rows() == 1
    assert all(same(each, got[0]) for each in got)


def test_a_failure_reaches_all_who_wait_and_is_not_remembered(setup: Setup) -> None:
    image = setup.image()
    setup.store.delete(image_key(image))
    with pytest.raises(StoreError):
        setup.embeddings.get(image.id, setup.model)
    setup.image()  # registering brings the bytes back
    setup.embeddings.get(image.id, setup.model)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # one bit inside a tensor: still well-formed
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _foreign(path: Path) -> None:
    path.write_bytes(seal(b"well sealed, but no embedding"))


@pytest.mark.parametrize("damage", [_flip, _cut, _empty, _foreign])
def test_a_damaged_entry_is_made_anew_and_never_served(
    setup: Setup, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    image = setup.image()
    first = setup.embeddings.get(image.id, setup.model)
    damage(setup.path(image))
    with caplog.at_level(logging.WARNING):
        assert same(setup.fresh().get(image.id, setup.model), first)
    assert "again" in caplog.text
    assert setup.model.encodes == 2
    assert same(setup.fresh().get(image.id, setup.model), first)
    assert setup.model.encodes == 2 and setup.rows() == 1


def test_a_lost_entry_is_made_anew(setup: Setup) -> None:
    image = setup.image()
    setup.embeddings.get(image.id, setup.model)
    setup.path(image).unlink()
    assert not setup.embeddings.has(image.id, setup.model)
    assert setup.embeddings.ensure(image.id, setup.model)  # though memory holds it
    assert not setup.embeddings.ensure(image.id, setup.model)
    assert setup.model.encodes == 2


def test_a_store_without_its_rows_is_used(setup: Setup) -> None:
    image = setup.image()
    setup.embeddings.get(image.id, setup.model)
    with setup.sessions.begin() as session:
        session.delete(session.scalars(select(tables.Embedding)).one())
    setup.fresh().get(image.id, setup.model)
    assert setup.model.encodes == 1 and setup.rows() == 1


def test_a_click_is_answered_when_the_store_takes_nothing(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    image = setup.image()
    (Path(setup.settings.store_address) / "embeddings").write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        setup.embeddings.get(image.id, setup.model)
    assert "cannot be written" in caplog.text and setup.rows() == 0
    with pytest.raises(StoreError, match="could not be kept"):
        setup.embeddings.ensure(image.id, setup.model)


def test_memory_stays_below_its_cap(setup: Setup) -> None:
    images = [setup.image(seed) for seed in range(4)]
    one = setup.embeddings.get(images[0].id, setup.model).n_bytes
    memory = setup.fresh()
    memory._memory._max_bytes = 2 * one
    for image in (images[0], images[1], images[0], images[2]):
        memory.get(image.id, setup.model)
    held = {key[0] for key in memory._memory._entries}
    assert held == {images[0].id, images[2].id}  # the least recently used went
    assert memory._memory._bytes == 2 * one
    memory._memory._max_bytes = one - 1
    memory.get(images[3].id, setup.model)  # too large to hold; given all the same
    assert images[3].id not in {key[0] for key in memory._memory._entries}


def test_a_window_is_remembered_but_not_stored(setup: Setup) -> None:
    image, window = setup.image(), Window(5, 10, 29, 34)
    first = setup.embeddings.get(image.id, setup.model, window)
    assert setup.embeddings.get(image.id, setup.model, window) is first
    assert setup.model.encodes == 1
    assert not list(Path(setup.settings.store_address).glob("embeddings/**/*.safetensors"))
    pixels = read_image(setup.store, image, setup.settings.images)[5:29, 10:34]
    assert same(Embedding.from_bytes(setup.model.encode(pixels).to_bytes()), first)
    assert same(setup.fresh().get(image.id, setup.model, window), first)
    assert setup.rows() == 0  # the mirror and the selection know whole images
    assert not setup.embeddings.has(image.id, setup.model)
    whole = setup.embeddings.get(image.id, setup.model)
    assert whole.image_size == (40, 50) and setup.rows() == 1
    assert setup.embeddings.get(image.id, setup.model, Window(5, 10, 29, 35)) is not first


def test_windows_of_one_image_decode_its_file_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = setup.image()
    reads = []

    def counting(*arguments: Any) -> npt.NDArray[np.uint8]:
        reads.append(1)
        return catalog.read_image(*arguments)

    monkeypatch.setattr("pipeline.embeddings.tiers.read_image", counting)
    for left in range(4):
        setup.embeddings.get(image.id, setup.model, Window(0, left, 24, left + 24))
    assert len(reads) == 1 and setup.model.encodes == 4


def test_an_image_nobody_knows(setup: Setup) -> None:
    with pytest.raises(UnknownRecordError, match="number 12345"):
        setup.embeddings.get(12345, setup.model)
    assert not setup.embeddings.has(12345, setup.model)


def test_a_seal_shows_every_changed_bit() -> None:
    entry = seal(b"abc")
    assert unseal(entry) == b"abc"
    for position in range(len(entry)):
        for bit in range(8):
            changed = bytearray(entry)
            changed[position] ^= 1 << bit
            with pytest.raises(StoreError):
                unseal(bytes(changed))
