"""Tests of the module ``add``.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from model.checkpoints import files as checkpoints
from model.errors import CheckpointError
from model.network.segnext import SegNext
from pipeline.errors import BusyError
from pipeline.record import versions
from pipeline.record.jobs import done_by
from pipeline.record.tables import Embedding, Job, ModelVersion
from pipeline.registry import add as adding
from pipeline.registry.add import RELEASED, Added, add
from pipeline.registry.weights import Weights
from pipeline.runtime import Runtime
from pipeline.training import promote as promoting
from tests.loop import Loop, base_checkpoint, make_loop, tiny_model
from tests.parity.plain import Shape, checkpoint
from tests.services.file_server import FileServer, server

__all__ = ["server"]  # a fixture

SHAPE = Shape(size=64, dim=8, depth=1, heads=2, neck=(8, 8, 8, 8), head=8)


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    made = make_loop(tmp_path)
    made.runtime.registry.ensure_base()
    return made


@pytest.fixture
def released(tmp_path: Path) -> Path:
    return write_released(tmp_path / "vit_tiny.pth")


def write_released(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint(SHAPE, seed), path)
    return path


def names(loop: Loop) -> dict[str, str]:
    with loop.runtime.sessions() as session:
        return {version.name: version.status for version in versions.versions(session)}


def version(loop: Loop, name: str) -> ModelVersion:
    with loop.runtime.sessions() as session:
        return versions.find(session, name)


def downloads(loop: Loop) -> list[Path]:
    """What is left of downloads."""
    return list((loop.runtime.settings.home / "downloads").rglob("*"))


def no_download(*_: object) -> None:
    pytest.fail("it was fetched")


# --- a file ---


def test_a_released_file_becomes_a_candidate_that_answers_as_it_did(
    loop: Loop, released: Path
) -> None:
    added = add(loop.runtime.registry, str(released))
    model = checkpoints.load(released)
    assert added == Added(
        name="vit_tiny",
        is_new=True,
        network="ViT, 1 blocks of 8 channels, no fusion blocks",
        parameters=sum(p.numel() for p in model.parameters()),
        input_size=64,
        sha256=hashlib.sha256(released.read_bytes()).hexdigest(),
        source=str(released),
        serving="base",
        same_encoder=False,
    )
    assert names(loop) == {"vit_tiny": "candidate", "base": "serving"}
    row = version(loop, "vit_tiny")
    assert (row.source_sha256, row.source) == (added.sha256, added.source)
    kept = loop.runtime.registry.load(row)
    assert kept.encoder_fingerprint == row.encoder == model.encoder_fingerprint
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept.state_dict()[name])


def test_the_same_file_is_added_once(loop: Loop, released: Path, tmp_path: Path) -> None:
    first = add(loop.runtime.registry, str(released), "mine")
    copy = tmp_path / "copy.bin"
    copy.write_bytes(released.read_bytes())
    for again in (
        add(loop.runtime.registry, str(released)),
        add(loop.runtime.registry, str(released), "mine"),
        add(loop.runtime.registry, str(copy)),
        add(loop.runtime.registry, str(copy), "other"),
    ):
        assert again == Added(**{**vars(first), "is_new": False})
    assert names(loop).keys() == {"mine", "base"}


def test_our_own_format_is_kept_as_it_is(loop: Loop, tmp_path: Path) -> None:
    checkpoints.save(tiny_model(5), tmp_path / "colleague.safetensors")
    added = add(loop.runtime.registry, str(tmp_path / "colleague.safetensors"))
    row = version(loop, "colleague")
    assert row.sha256 == added.sha256
    assert not added.same_encoder
    assert added.network.startswith("mobilenetv2")


def test_the_base_is_recognised(loop: Loop, tmp_path: Path) -> None:
    added = add(loop.runtime.registry, str(base_checkpoint(tmp_path / "elsewhere")))
    assert (added.name, added.is_new, added.same_encoder) == ("base", False, True)


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_weights_lost_from_the_store_come_back(loop: Loop, released: Path, damage: str) -> None:
    add(loop.runtime.registry, str(released))
    row = version(loop, "vit_tiny")
    if damage == "missing":
        loop.runtime.store.delete(row.key)
    else:
        loop.runtime.store.write(row.key, b"rust")
    assert not add(loop.runtime.registry, str(released)).is_new
    loop.runtime.registry.load(row)
    assert names(loop).keys() == {"vit_tiny", "base"}


def test_a_file_that_is_refused_leaves_nothing(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "page.pth").write_text("<!doctype html><title>Quota exceeded</title>")
    with pytest.raises(CheckpointError, match=r"page\.pth is a web page"):
        add(loop.runtime.registry, str(tmp_path / "page.pth"))
    assert names(loop) == {"base": "serving"}


@pytest.mark.parametrize("form", ["ours", "released"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def write(seed: int) -> None:
        if form == "ours":
            checkpoints.save(tiny_model(seed), path)
        else:
            write_released(path, seed)

    def load(path: Path) -> SegNext:
        model = real(path)
        write(2)
        return model

    path, real = tmp_path / "mine.pth", checkpoints.load
    write(1)
    monkeypatch.setattr(checkpoints, "load", load)
    with pytest.raises(CheckpointError, match=r"changed while it was read.*\.$"):
        add(loop.runtime.registry, str(path))
    assert names(loop) == {"base": "serving"}


def test_what_is_nothing_is_refused(loop: Loop, subtests: pytest.Subtests) -> None:
    for what in ("", "vitb-sax3", "absent.pth", "/", "ftp://host/a.pth", "file:///x", "a\0b"):
        with subtests.test(what), pytest.raises(CheckpointError, match=r"\.$"):
            add(loop.runtime.registry, what)


def test_threads_that_add_one_file_at_once_make_one_version(loop: Loop, released: Path) -> None:
    found: list[Added] = []
    threads = [
        threading.Thread(target=lambda: found.append(add(loop.runtime.registry, str(released))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.name for each in found] == ["vit_tiny"] * 3
    assert names(loop).keys() == {"vit_tiny", "base"}


# --- names ---


def test_names_that_cannot_be_are_refused_before_anything_is_fetched(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(adding, "fetch_drive", no_download)
    reserved = ("v7", "base", "base-2", "candidate-1", "serving")
    for name in (*reserved, "", "a b", "-a", "../a", "x" * 56, "a\n"):
        with subtests.test(name), pytest.raises(CheckpointError, match="cannot be a version's"):
            add(loop.runtime.registry, "vitb-sax1", name)


def test_a_name_is_given_once(loop: Loop, released: Path, tmp_path: Path) -> None:
    add(loop.runtime.registry, str(released))
    other = write_released(tmp_path / "other" / "vit_tiny.pth", seed=1)
    with pytest.raises(CheckpointError, match="another version vit_tiny"):
        add(loop.runtime.registry, str(other), "vit_tiny")
    assert add(loop.runtime.registry, str(other)).name.startswith("vit_tiny-")  # with its checksum
    write_released(released, seed=2)  # another file where the first one was
    with pytest.raises(CheckpointError, match="another version vit_tiny"):
        add(loop.runtime.registry, str(released), "vit_tiny")
    assert len(names(loop)) == 3


def test_names_are_made_of_what_files_are_called(loop: Loop, tmp_path: Path) -> None:
    files = {
        "a b (1).pth": "a-b-1",
        "v7.pth": "model-v7",
        "base.pth": "model-base",
        "é.pt": "model",
    }
    for seed, (file, name) in enumerate(files.items()):
        path = write_released(tmp_path / "x" / file, seed)
        assert add(loop.runtime.registry, str(path)).name == name


def test_names_fit_where_they_are_kept(loop: Loop, tmp_path: Path) -> None:
    """SQLite does not care; PostgreSQL refuses the row."""
    file = f"base-{'x' * 45}.pth"
    for seed in range(2):
        path = write_released(tmp_path / str(seed) / file, seed)
        assert len(add(loop.runtime.registry, str(path)).name) <= 64
    assert len(names(loop)) == 3


# --- an address, and the released files ---


def test_an_address_is_fetched_and_its_download_goes(
    loop: Loop, server: FileServer, released: Path
) -> None:
    server.data, server.drop_after = released.read_bytes(), [1000]
    seen: list[int] = []
    added = add(loop.runtime.registry, server.url, progress=lambda done, total: seen.append(done))
    assert (added.name, added.is_new) == ("a", True)
    assert "signature" not in added.source and added.source.endswith("/models/a.pth")
    assert seen[-1] == len(server.data)
    assert not add(loop.runtime.registry, server.url).is_new
    assert downloads(loop) == []


def test_a_download_is_not_taken_away_while_it_is_read(
    loop: Loop, server: FileServer, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.data, real = released.read_bytes(), adding.read_weights

    def read(path: Path) -> Weights:
        with pytest.raises(BusyError, match="wait until it is done"):
            add(loop.runtime.registry, server.url)  # another process, meanwhile
        return real(path)

    monkeypatch.setattr(adding, "read_weights", read)
    assert add(loop.runtime.registry, server.url).is_new
    assert downloads(loop) == []


def test_a_refused_download_is_fetched_anew(loop: Loop, server: FileServer, released: Path) -> None:
    server.data = released.read_bytes()[:-100]
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        add(loop.runtime.registry, server.url)
    assert downloads(loop) == []
    server.data = released.read_bytes()
    assert add(loop.runtime.registry, server.url).is_new


def test_a_released_name_is_fetched_from_its_place_once(
    loop: Loop, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(file_id: str, target: Path, _: object) -> None:
        asked.append(file_id)
        target.write_bytes(released.read_bytes())

    monkeypatch.setattr(adding, "fetch_drive", fetch)
    added = add(loop.runtime.registry, "vitb-sax2")
    assert (added.name, added.is_new) == ("vitb-sax2", True)
    assert RELEASED["vitb-sax2"] in added.source
    assert add(loop.runtime.registry, "vitb-sax2").is_new is False
    assert add(loop.runtime.registry, "vitb-sax2", "mine").name == "vitb-sax2"
    assert asked == ["1uHEcvwA2spsLQqDJiYKqv1pf3vgLAG7-"]
    assert downloads(loop) == []


# --- what it is then good for ---


def test_fine_tunes_may_start_from_it_by_name(loop: Loop, released: Path, tmp_path: Path) -> None:
    add(loop.runtime.registry, str(released), "vit")
    settings = loop.runtime.settings
    chosen = settings.model.model_copy(update={"base": Path("vit")})
    changed = Runtime(settings.model_copy(update={"model": chosen}))
    assert changed.registry.ensure_base().name == "vit"
    assert names(loop) == {"vit": "candidate", "base": "serving"}
    chosen = settings.model.model_copy(update={"base": Path("absent")})
    changed = Runtime(settings.model_copy(update={"model": chosen}))
    with pytest.raises(CheckpointError, match=r"neither a file nor a model version; mend"):
        changed.registry.ensure_base()


def encoded(loop: Loop, encoder: str) -> int:
    with loop.runtime.sessions() as session:
        return len(session.scalars(select(Embedding).where(Embedding.encoder == encoder)).all())


def test_it_serves_once_its_encoder_has_seen_every_image(loop: Loop, released: Path) -> None:
    loop.accept_many(2, 1)
    add(loop.runtime.registry, str(released), "vit")
    row, steps = version(loop, "vit"), []

    def watch(done: int, total: int | None) -> None:
        steps.append((done, total))
        if done < 3:
            assert names(loop) == {"vit": "candidate", "base": "serving"}
        if done == 1:
            loop.accept("train")  # an image that comes meanwhile

    promoting.promote(loop.runtime, "vit", progress=watch)
    assert names(loop) == {"vit": "serving", "base": "retired"}
    assert encoded(loop, row.encoder) == 4
    assert steps[0] == (0, 3) and steps[-1] == (4, 4)


def test_it_may_serve_at_once_when_somebody_insists(loop: Loop, released: Path) -> None:
    loop.accept("train")
    add(loop.runtime.registry, str(released), "vit")
    promoting.promote(loop.runtime, "vit", at_once=True)
    assert names(loop)["vit"] == "serving"
    assert encoded(loop, version(loop, "vit").encoder) == 0


def test_an_image_that_is_lost_does_not_keep_it_from_serving_but_a_lost_store_does(
    loop: Loop, released: Path
) -> None:
    loop.accept_many(2, 0)
    add(loop.runtime.registry, str(released), "vit")
    images = [f"images/{each.sha256[:2]}/{each.sha256}.{each.extension}" for each in loop.images()]
    kept = {key: loop.runtime.store.read(key) for key in images}
    for key in images:
        loop.runtime.store.delete(key)
    with pytest.raises(Exception, match=r"\.$"):
        promoting.promote(loop.runtime, "vit")
    assert names(loop)["base"] == "serving"
    loop.runtime.store.write(images[0], kept[images[0]])
    promoting.promote(loop.runtime, "vit")
    assert names(loop)["vit"] == "serving"


def test_a_message_that_is_delivered_twice_promotes_once(loop: Loop, released: Path) -> None:
    add(loop.runtime.registry, str(released), "vit")
    promoting.promote(loop.runtime, "vit", message="m1")
    with loop.runtime.sessions.begin() as session:
        assert done_by(session, "promote", "m1")
        versions.rollback(session)
    promoting.promote(loop.runtime, "vit", message="m1")
    assert names(loop)["base"] == "serving"
    with loop.runtime.sessions() as session:
        assert len(session.scalars(select(Job).where(Job.kind == "promote")).all()) == 1
