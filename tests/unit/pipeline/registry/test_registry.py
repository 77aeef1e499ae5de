from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from sqlalchemy.exc import IntegrityError

from model.errors import CheckpointError
from model.inference import precision
from model.network.segnext import SegNext
from pipeline.errors import UnknownRecordError
from pipeline.record import versions
from pipeline.record.tables import ModelVersion, Snapshot
from pipeline.registry import serving
from pipeline.registry.serving import ServingModel
from tests.loop import Loop, make_loop, tiny_model

T = TypeVar("T")


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    return make_loop(tmp_path)


def base(loop: Loop) -> ModelVersion:
    return loop.runtime.registry.ensure_base()


def candidate(loop: Loop, seed: int = 1) -> ModelVersion:
    with loop.runtime.sessions.begin() as session:
        snapshot = Snapshot(digest=str(seed))
        session.add(snapshot)
    return loop.runtime.registry.add_candidate(tiny_model(seed), snapshot)


def promote(loop: Loop, version: ModelVersion) -> None:
    with loop.runtime.sessions.begin() as session:
        versions.promote(session, session.get_one(ModelVersion, version.id))


def statuses(loop: Loop) -> dict[str, str]:
    with loop.runtime.sessions() as session:
        return {version.name: version.status for version in versions.versions(session)}


def serving_model(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> ServingModel:
    monkeypatch.setattr("pipeline.registry.serving.CHECK_EVERY", 0.0)
    return ServingModel(loop.runtime.registry)


def same(first: SegNext, second: SegNext) -> bool:
    return all(
        torch.equal(a.half(), b.half())
        for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_a_checkpoint_is_named_as_a_file_or_else_as_a_version(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = loop.runtime
    file = str(runtime.settings.model.base)
    assert runtime.registry.load_named(None)[0] == "base.safetensors"
    assert runtime.registry.load_named(file)[0] == "base.safetensors"
    assert not runtime.settings.home.exists()  # a file needs no database
    assert runtime.registry.load_named("base")[0] == "base"  # though nothing was used yet
    version = candidate(loop)
    name, model = runtime.registry.load_named(version.name)
    assert (name, same(model, tiny_model(1))) == ("v2", True)
    monkeypatch.chdir(tmp_path)
    Path("v2").write_bytes(Path(file).read_bytes())  # a file comes first
    assert same(runtime.registry.load_named("v2")[1], tiny_model())
    for name in ("v9", "gone.safetensors", str(tmp_path)):
        with pytest.raises(CheckpointError, match=f"^{name} is neither a file nor .*models list"):
            runtime.registry.load_named(name)


def test_the_base_is_registered_once_and_serves(loop: Loop) -> None:
    first, again = base(loop), base(loop)
    assert first.id == again.id
    assert statuses(loop) == {"base": "serving"}
    model = loop.runtime.registry.load(first)
    assert model.encoder_fingerprint == first.encoder


def test_threads_that_start_together_register_one_base(loop: Loop) -> None:
    assert loop.runtime.sessions
    threads = [threading.Thread(target=base, args=(loop,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses(loop) == {"base": "serving"}


def test_a_missing_base_names_the_setting(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    assert loop.runtime.settings.model.base is not None
    loop.runtime.settings.model.base.unlink()
    with pytest.raises(CheckpointError, match=r"model\.base"):
        base(loop)


def test_promotion_retires_and_rollback_goes_back_step_by_step(loop: Loop) -> None:
    base(loop)
    second, third = candidate(loop, 1), candidate(loop, 2)
    promote(loop, second)
    promote(loop, third)
    assert statuses(loop) == {"base": "retired", second.name: "retired", third.name: "serving"}
    for expected in (second.name, "base"):
        with loop.runtime.sessions.begin() as session:
            assert versions.rollback(session).name == expected
    with (
        loop.runtime.sessions.begin() as session,
        pytest.raises(UnknownRecordError, match="No earlier"),
    ):
        versions.rollback(session)
    promote(loop, third)
    assert statuses(loop)[third.name] == "serving"


def test_a_rollback_never_comes_back_to_a_version_that_was_left(loop: Loop) -> None:
    base(loop)
    second, third = candidate(loop, 1), candidate(loop, 2)
    promote(loop, second)
    with loop.runtime.sessions.begin() as session:
        assert versions.rollback(session).name == "base"
    promote(loop, third)
    with loop.runtime.sessions.begin() as session:
        assert versions.rollback(session).name == "base"
    assert statuses(loop) == {"base": "serving", second.name: "refused", third.name: "refused"}


def test_a_version_that_breaks_while_it_loads_is_not_tried_at_every_click(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    base(loop)
    other, tried = candidate(loop, 1), []
    model = loop.runtime.serving.current()[1]

    def full(version: ModelVersion) -> SegNext:
        tried.append(version.name)
        raise RuntimeError("CUDA out of memory")  # no error of ours

    monkeypatch.setattr(loop.runtime.registry, "load_to_serve", full)
    monkeypatch.setattr(serving, "CHECK_EVERY", 0.0)
    promote(loop, other)
    for _ in range(3):
        assert loop.runtime.serving.current()[1] is model
    assert tried == [other.name]


def test_the_database_refuses_two_serving_versions(loop: Loop) -> None:
    base(loop)
    other = candidate(loop)
    with pytest.raises(IntegrityError), loop.runtime.sessions.begin() as session:
        session.get_one(ModelVersion, other.id).status = "serving"


def test_an_unknown_name_points_to_the_list(loop: Loop) -> None:
    with loop.runtime.sessions() as session, pytest.raises(UnknownRecordError, match="models list"):
        versions.find(session, "v99")


def test_serving_model_follows_promotions(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    model = serving_model(loop, monkeypatch)
    version, network = model.current()
    assert version.name == "base"
    assert model.current()[1] is network
    better = candidate(loop)
    promote(loop, better)
    version, network = model.current()
    assert version.name == better.name
    assert same(network, tiny_model(1))


def test_what_serves_has_the_precision_of_the_settings(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, model={"precision": "bf16"})
    version, network = loop.runtime.serving.current()
    trained = loop.runtime.registry.load(version)
    for model, dtype in ((network, torch.bfloat16), (trained, torch.float32)):
        assert model.fusion_blocks[0].mlp.fc1.weight.dtype == dtype
        assert model.encoder_fingerprint == version.encoder


def test_a_network_is_compiled_before_it_serves_while_the_old_one_answers(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiled: list[SegNext] = []
    done = threading.Event()
    done.set()

    def compile_slowly(network: SegNext) -> None:
        assert done.wait(20)
        compiled.append(network)

    monkeypatch.setattr("pipeline.registry.serving.CHECK_EVERY", 0.0)
    monkeypatch.setattr(precision, "compile_and_warm", compile_slowly)
    model = ServingModel(loop.runtime.registry, compiled=True)
    _, first = model.current()
    assert compiled == [first]
    done.clear()
    promote(loop, candidate(loop))
    assert [model.current()[1] for _ in range(3)] == [first] * 3
    done.set()
    second = _wait_for(lambda: model.current()[1], lambda network: network is not first)
    assert compiled == [first, second]


def test_a_network_that_cannot_be_compiled_does_not_serve(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pipeline.registry.serving.CHECK_EVERY", 0.0)
    monkeypatch.setattr(precision, "compile_and_warm", lambda _: None)
    model = ServingModel(loop.runtime.registry, compiled=True)
    before = model.current()
    refused = CheckpointError("No compiler; install one.")

    def fail(_: SegNext) -> None:
        raise refused

    monkeypatch.setattr(precision, "compile_and_warm", fail)
    promote(loop, candidate(loop))
    _wait_for(lambda: (model.current(), caplog.text)[1], lambda text: str(refused) in text)
    assert model.current() is before
    with pytest.raises(CheckpointError, match="No compiler"):
        ServingModel(loop.runtime.registry, compiled=True).current()


def _wait_for(look: Callable[[], T], enough: Callable[[T], bool]) -> T:
    deadline = time.monotonic() + 20
    while not enough(found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_serving_model_keeps_the_old_version_when_the_new_is_broken(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = serving_model(loop, monkeypatch)
    before = model.current()
    broken = candidate(loop)
    data = loop.runtime.store.read(broken.key)
    if damage == "missing":
        loop.runtime.store.delete(broken.key)
    else:
        loop.runtime.store.write(broken.key, data[:-1] + bytes([data[-1] ^ 1]))
    promote(loop, broken)
    assert model.current() is before
    assert model.current() is before
    assert caplog.text.count("stays in service") == 1  # not tried again at every click
    loop.runtime.store.write(broken.key, data)
    monkeypatch.setattr("pipeline.registry.serving.RETRY_AFTER", 0.0)
    assert model.current()[0].name == broken.name


def test_serving_model_outlives_the_database(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = serving_model(loop, monkeypatch)
    before = model.current()
    with loop.runtime.sessions() as session:
        session.connection().exec_driver_sql("ALTER TABLE model_version RENAME TO gone")
        session.commit()
    assert model.current() is before
