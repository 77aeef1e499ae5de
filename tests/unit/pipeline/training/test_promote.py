from __future__ import annotations

from pathlib import Path

import pytest

from model.checkpoints import files as checkpoints
from pipeline.errors import BusyError
from pipeline.images.catalog import image_key
from pipeline.record import versions
from pipeline.record.jobs import job
from pipeline.registry.add import add
from pipeline.training import promote as promoting
from tests.loop import Loop, make_loop, tiny_model


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    """The base serves; ``other`` has an encoder of its own."""
    made = make_loop(tmp_path)
    made.runtime.registry.ensure_base()
    checkpoints.save(tiny_model(5), tmp_path / "other.safetensors")
    add(made.runtime.registry, str(tmp_path / "other.safetensors"))
    return made


def serving(loop: Loop) -> str:
    with loop.runtime.sessions() as session:
        version = versions.serving(session)
        assert version is not None
        return version.name


def test_an_image_that_is_lost_does_not_keep_it_from_serving_when_it_alone_is_left(
    loop: Loop,
) -> None:
    loop.accept_many(3, 0)
    promoting.promote(loop.runtime, "other")
    promoting.promote(loop.runtime, "base")
    loop.accept("train")
    loop.runtime.store.delete(image_key(loop.images()[-1]))
    promoting.promote(loop.runtime, "other")
    assert serving(loop) == "other"


def test_while_a_promotion_is_prepared_another_waits_unless_somebody_insists(loop: Loop) -> None:
    with job(loop.runtime.sessions, promoting.KIND, exclusive=True):
        with pytest.raises(BusyError):
            promoting.promote(loop.runtime, "other")
        assert serving(loop) == "base"
        promoting.promote(loop.runtime, "other", at_once=True)
        assert serving(loop) == "other"


def test_who_chooses_another_version_meanwhile_is_not_overruled(
    loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(tiny_model(6), tmp_path / "third.safetensors")
    add(loop.runtime.registry, str(tmp_path / "third.safetensors"))

    def meanwhile(name: str) -> None:
        def encoding(*_: object) -> None:
            promoting.promote(loop.runtime, name, at_once=True)

        monkeypatch.setattr(promoting, "encode_all", encoding)

    meanwhile("third")
    with pytest.raises(promoting.OvertakenError, match=r"third was made to serve while other"):
        promoting.promote(loop.runtime, "other")
    assert serving(loop) == "third"
    meanwhile("base")  # as it was, before it is as asked
    with pytest.raises(promoting.OvertakenError):
        promoting.promote(loop.runtime, "other")
    meanwhile("other")  # the same wish twice
    promoting.promote(loop.runtime, "other")
    assert serving(loop) == "other"
