from __future__ import annotations

import hashlib
import io
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from model.errors import ImageError
from pipeline.catalog import (
    image_key,
    read_image,
    register_image,
    split_of,
    task_image,
    task_row,
)
from pipeline.database import make_sessions, upgrade
from pipeline.errors import ImageSourceError
from pipeline.image_source import ImageSource
from pipeline.settings import FineTuneSettings, ImageSettings, Settings
from pipeline.store import Store
from pipeline.tables import Image, Task


def png(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "files").mkdir()
    made = Settings(home=tmp_path / "home", images=ImageSettings(files_root=tmp_path / "files"))
    upgrade(made)
    return made


@pytest.fixture
def sessions(settings: Settings) -> sessionmaker[Session]:
    return make_sessions(settings)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store_address)


def source(settings: Settings) -> ImageSource:
    return ImageSource(settings, dict)


def test_an_image_is_one_row_whatever_its_tasks(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    data = png()
    with sessions.begin() as session:
        first = register_image(session, store, data, settings)
        again = register_image(session, store, data, settings)
        other = register_image(session, store, png(1), settings)
        assert first is again and first.id != other.id
    assert first.sha256 == hashlib.sha256(data).hexdigest()
    assert (first.width, first.height, first.extension) == (9, 6, "png")
    assert image_key(first) == f"images/{first.sha256[:2]}/{first.sha256}.png"
    assert store.read(image_key(first)) == data
    assert read_image(store, first, settings.images).shape == (6, 9, 3)


def test_a_bad_image_leaves_neither_row_nor_file(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    with pytest.raises(ImageError), sessions.begin() as session:
        register_image(session, store, png()[:60], settings)
    with sessions() as session:
        assert session.scalar(select(func.count(Image.id))) == 0
    assert not (Path(settings.store_address) / "images").exists()


def test_a_store_that_lost_the_bytes_gets_them_back(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    with sessions.begin() as session:
        image = register_image(session, store, png(), settings)
        store.delete(image_key(image))
        register_image(session, store, png(), settings)
    assert store.read(image_key(image)) == png()


def test_the_split_is_spread_by_share_and_only_grows() -> None:
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(4000)]
    fifth = {name for name in hashes if split_of(name, 0.2) == "holdout"}
    third = {name for name in hashes if split_of(name, 0.33) == "holdout"}
    assert 0.18 < len(fifth) / 4000 < 0.22
    assert fifth < third
    assert split_of("0" * 64, 0.001) == "holdout" and split_of("f" * 64, 0.999) == "train"


def test_the_split_of_an_image_never_changes(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    with sessions.begin() as session:
        before = register_image(session, store, png(), settings).split
    for share in (0.001, 0.999):
        changed = settings.model_copy(update={"finetune": FineTuneSettings(holdout_share=share)})
        with sessions.begin() as session:
            assert register_image(session, store, png(), changed).split == before


def _register_many(settings: Settings) -> None:
    sessions, store = make_sessions(settings), Store(settings.store_address)
    for seed in range(25):
        with sessions.begin() as session:
            image = register_image(session, store, png(seed), settings)
            task_row(session, 1, seed, f"/data/{seed}").image_id = image.id


def test_processes_registering_the_same_images(
    settings: Settings, sessions: sessionmaker[Session]
) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_register_many, args=(settings,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with sessions() as session:
        assert session.scalar(select(func.count(Image.id))) == 25
        assert session.scalar(select(func.count(Task.id))) == 25


def test_a_task_with_a_new_address_forgets_its_image(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    with sessions.begin() as session:
        task = task_row(session, 1, 7, "/data/a")
        task.image_id = register_image(session, store, png(), settings).id
    with sessions.begin() as session:
        same = task_row(session, 1, 7, "/data/a")
        assert same.id == task.id and same.image_id is not None
        assert task_row(session, 1, 7, "/data/b").image_id is None
        assert task_row(session, 2, 7, "/data/a").id != task.id


def test_a_tasks_image_is_fetched_once(
    sessions: sessionmaker[Session], store: Store, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "files" / "a.png").write_bytes(png())
    with sessions.begin() as session:
        task = task_row(session, 1, 1, "/data/local-files/?d=a.png")
    with source(settings) as images:
        with sessions.begin() as session:
            image = task_image(session, store, images, session.get_one(Task, task.id), settings)
        (tmp_path / "files" / "a.png").unlink()
        with sessions.begin() as session:
            row = session.get_one(Task, task.id)
            assert task_image(session, store, images, row, settings).id == image.id


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/data/local-files/?d=../home/maskloop.toml", ImageSourceError),
        ("/data/local-files/?d=text.png", ImageError),
    ],
)
def test_why_a_task_has_no_image_outlives_the_callers_rollback(
    sessions: sessionmaker[Session],
    store: Store,
    settings: Settings,
    tmp_path: Path,
    url: str,
    kind: type[Exception],
) -> None:
    (tmp_path / "files" / "text.png").write_bytes(b"not a picture")
    with source(settings) as images:
        with pytest.raises(kind) as caught, sessions.begin() as session:
            task_image(session, store, images, task_row(session, 1, 1, url), settings)
        with sessions() as session:
            assert session.scalars(select(Task)).one().problem == str(caught.value)
        # A mended file is found the next time, and the problem is gone.
        (tmp_path / "files" / "text.png").write_bytes(png())
        with sessions.begin() as session:
            task = task_row(session, 1, 1, "/data/local-files/?d=text.png")
            task_image(session, store, images, task, settings)
        with sessions() as session:
            assert session.scalars(select(Task)).one().problem is None
