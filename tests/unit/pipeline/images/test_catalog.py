"""Tests of the module ``catalog``.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from sqlalchemy import func, select
from sqlalchemy.orm import Session, sessionmaker

from model.errors import ImageError, MaskloopError
from pipeline.errors import ImageSourceError
from pipeline.images.catalog import (
    MOST_ADDRESS,
    Catalog,
    image_key,
    read_image,
    split_of,
    task_row,
)
from pipeline.images.source import ImageSource
from pipeline.record import schema
from pipeline.record.engine import make_engine, sessions_on
from pipeline.record.tables import Image, Task
from pipeline.settings import FineTuneSettings, ImageSettings, Settings
from pipeline.storage.store import Store


def png(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "files").mkdir()
    made = Settings(home=tmp_path / "home", images=ImageSettings(files_root=tmp_path / "files"))
    schema.upgrade(made)
    return made


@pytest.fixture
def sessions(settings: Settings) -> sessionmaker[Session]:
    return sessions_on(make_engine(settings))


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store_address)


def source(settings: Settings) -> ImageSource:
    return ImageSource(settings, dict)


@pytest.fixture
def catalog(sessions: sessionmaker[Session], store: Store, settings: Settings) -> Iterator[Catalog]:
    with source(settings) as files:
        yield Catalog(sessions, store, files, settings)


def test_an_image_is_one_row_whatever_its_tasks(
    catalog: Catalog, store: Store, settings: Settings
) -> None:
    data = png()
    first, again, other = (catalog.register(each) for each in (data, data, png(1)))
    assert first.id == again.id and first.id != other.id
    assert first.sha256 == hashlib.sha256(data).hexdigest()
    assert (first.width, first.height, first.extension) == (9, 6, "png")
    assert image_key(first) == f"images/{first.sha256[:2]}/{first.sha256}.png"
    assert store.read(image_key(first)) == data
    assert read_image(store, first, settings.images).shape == (6, 9, 3)


def test_a_bad_image_leaves_neither_row_nor_file(
    catalog: Catalog, sessions: sessionmaker[Session], settings: Settings
) -> None:
    with pytest.raises(ImageError):
        catalog.register(png()[:60])
    with sessions() as session:
        assert session.scalar(select(func.count(Image.id))) == 0
    assert not (Path(settings.store_address) / "images").exists()


def test_a_store_that_lost_the_bytes_gets_them_back(catalog: Catalog, store: Store) -> None:
    image = catalog.register(png())
    store.delete(image_key(image))
    catalog.register(png())
    assert store.read(image_key(image)) == png()


def test_the_split_is_spread_by_share_and_only_grows() -> None:
    hashes = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(4000)]
    fifth = {name for name in hashes if split_of(name, 0.2) == "holdout"}
    third = {name for name in hashes if split_of(name, 0.33) == "holdout"}
    assert 0.18 < len(fifth) / 4000 < 0.22
    assert fifth < third
    assert split_of("0" * 64, 0.001) == "holdout" and split_of("f" * 64, 0.999) == "train"


def test_the_split_of_an_image_never_changes(
    catalog: Catalog, sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    before = catalog.register(png()).split
    for share in (0.001, 0.999):
        changed = settings.model_copy(update={"finetune": FineTuneSettings(holdout_share=share)})
        with source(changed) as files:
            later = Catalog(sessions, store, files, changed)
            assert later.register(png()).split == before


def _register_many(settings: Settings) -> None:
    sessions, store = sessions_on(make_engine(settings)), Store(settings.store_address)
    with source(settings) as files:
        catalog = Catalog(sessions, store, files, settings)
    for seed in range(25):
        image = catalog.register(png(seed))
        with sessions.begin() as session:
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
    catalog: Catalog, sessions: sessionmaker[Session]
) -> None:
    image = catalog.register(png())
    with sessions.begin() as session:
        task = task_row(session, 1, 7, "/data/a")
        task.image_id = image.id
    with sessions.begin() as session:
        same = task_row(session, 1, 7, "/data/a")
        assert same.id == task.id and same.image_id is not None
        assert task_row(session, 1, 7, "/data/b").image_id is None
        assert task_row(session, 2, 7, "/data/a").id != task.id


def new_task(sessions: sessionmaker[Session], url: str, number: int = 1) -> Task:
    with sessions.begin() as session:
        return task_row(session, 1, number, url)


def the_task(sessions: sessionmaker[Session]) -> Task:
    with sessions() as session:
        return session.scalars(select(Task)).one()


class Slow:
    """Gives a picture or an error, after something else happened."""

    def __init__(self, meanwhile: Callable[[], object], given: bytes | MaskloopError) -> None:
        self.meanwhile, self.given, self.fetched = meanwhile, given, 0

    def fetch(self, _url: str) -> bytes:
        self.fetched += 1
        self.meanwhile()
        if isinstance(self.given, MaskloopError):
            raise self.given
        return self.given


def test_an_address_changed_while_its_old_image_came_forgets_that_one(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    task = new_task(sessions, "/data/a")
    with sessions.begin() as session:
        read = session.get_one(Task, task.id)  # while there is no image; the session holds it
        slow = Slow(lambda: None, png())
        image = Catalog(sessions, store, slow, settings).image_of(task)
        assert the_task(sessions).image_id == image.id
        assert task_row(session, 1, 1, "/data/b") is read and read.image_id is None
    assert (the_task(sessions).url, the_task(sessions).image_id) == ("/data/b", None)


def test_an_image_or_a_problem_that_comes_late_is_not_the_new_addresss(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    task = new_task(sessions, "/data/a")
    slow = Slow(lambda: new_task(sessions, "/data/b"), png())
    image = Catalog(sessions, store, slow, settings).image_of(task)
    assert store.read(image_key(image)) == png()
    late = the_task(sessions)
    assert (late.url, late.image_id, late.problem) == ("/data/b", None, None)
    slow = Slow(lambda: new_task(sessions, "/data/c"), ImageSourceError("It is gone."))
    with pytest.raises(ImageSourceError, match="It is gone"):
        Catalog(sessions, store, slow, settings).image_of(late)
    assert (the_task(sessions).url, the_task(sessions).problem) == ("/data/c", None)


def test_threads_share_a_download_which_holds_no_connection(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    tasks = [new_task(sessions, "/data/a", number) for number in range(1, 6)]
    pool = sessions().get_bind().pool
    all_wait, held = threading.Semaphore(0), []

    def meanwhile() -> None:
        for _ in tasks[1:]:
            assert all_wait.acquire(timeout=20)
        held.append(pool.checkedout())

    slow = Slow(meanwhile, png())
    catalog = Catalog(sessions, store, slow, settings)

    def get(task: Task) -> int:
        return catalog.image_of(task, while_waiting=all_wait.release).id

    with ThreadPoolExecutor(len(tasks)) as threads:
        found = list(threads.map(get, tasks))
    assert (slow.fetched, held) == (1, [0])
    with sessions() as session:
        assert session.scalars(select(Task.image_id)).all() == found == [1] * len(tasks)


def test_threads_that_share_a_download_share_what_is_wrong_with_it(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    tasks = [new_task(sessions, "/data/a", number) for number in (1, 2)]
    waits = threading.Event()
    slow = Slow(lambda: waits.wait(20), ImageSourceError("It is gone."))
    catalog = Catalog(sessions, store, slow, settings)

    def get(task: Task) -> None:
        with pytest.raises(ImageSourceError, match="It is gone"):
            catalog.image_of(task, while_waiting=waits.set)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(get, tasks))
    with sessions() as session:
        assert session.scalars(select(Task.problem)).all() == ["It is gone."] * 2
    slow.given = png()  # and the next to ask tries again
    assert catalog.image_of(tasks[0]).id == 1
    assert slow.fetched == 2


def test_who_no_longer_waits_leaves_without_a_problem(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    task = new_task(sessions, "/data/a")
    left = threading.Event()

    def leave() -> None:
        raise MaskloopError("Enough.")

    with ThreadPoolExecutor(1) as other:
        began = threading.Event()

        def meanwhile() -> None:
            began.set()
            assert left.wait(20)

        catalog = Catalog(sessions, store, Slow(meanwhile, png()), settings)
        first = other.submit(catalog.image_of, task)
        assert began.wait(20)
        with pytest.raises(MaskloopError, match="Enough"):
            catalog.image_of(task, while_waiting=leave)
        assert the_task(sessions).problem is None
        left.set()
        assert first.result().id == the_task(sessions).image_id


def test_an_image_whose_bytes_are_lost_is_fetched_again_where_they_are_needed(
    sessions: sessionmaker[Session], store: Store, settings: Settings
) -> None:
    slow = Slow(lambda: None, png())
    catalog = Catalog(sessions, store, slow, settings)
    image = catalog.image_of(new_task(sessions, "/data/a"))
    store.delete(image_key(image))
    assert catalog.image_of(the_task(sessions)).id == image.id
    assert slow.fetched == 1
    for _ in range(2):
        found = catalog.image_of(the_task(sessions), whole=True)
        assert found.id == image.id
        assert slow.fetched == 2
    assert store.read(image_key(image)) == png()


def test_a_picture_is_no_address(sessions: sessionmaker[Session]) -> None:
    longest = "/data/" + "a" * (MOST_ADDRESS - len("/data/"))
    assert new_task(sessions, longest).url == longest
    with pytest.raises(ImageSourceError, match="task 1 is 10,001 characters long") as caught:
        new_task(sessions, longest + "a")
    assert len(str(caught.value)) < 250
    assert the_task(sessions).url == longest


def test_a_tasks_image_is_fetched_once(
    catalog: Catalog, sessions: sessionmaker[Session], tmp_path: Path
) -> None:
    (tmp_path / "files" / "a.png").write_bytes(png())
    task = new_task(sessions, "/data/local-files/?d=a.png")
    image = catalog.image_of(task)
    (tmp_path / "files" / "a.png").unlink()
    assert catalog.image_of(the_task(sessions)).id == image.id


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("/data/local-files/?d=../home/maskloop.toml", ImageSourceError),
        ("/data/local-files/?d=text.png", ImageError),
    ],
)
def test_why_a_task_has_no_image_stays_until_it_has_one(
    catalog: Catalog,
    sessions: sessionmaker[Session],
    tmp_path: Path,
    url: str,
    kind: type[Exception],
) -> None:
    (tmp_path / "files" / "text.png").write_bytes(b"not a picture")
    with pytest.raises(kind) as caught:
        catalog.image_of(new_task(sessions, url))
    assert the_task(sessions).problem == str(caught.value)
    # A mended file is found the next time, and the problem is gone.
    (tmp_path / "files" / "text.png").write_bytes(png())
    task = new_task(sessions, "/data/local-files/?d=text.png")
    catalog.image_of(task)
    assert the_task(sessions).problem is None
