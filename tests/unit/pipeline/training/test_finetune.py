"""Tests of the module ``finetune``.

It is longer than 300 lines because the tests of one module stand in one file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.checkpoints.files import save
from model.network.segnext import SegNext
from model.training.finetune import FineTuneConfig
from pipeline.errors import BusyError, JobEndedError, NotEnoughDataError
from pipeline.record import jobs, snapshots, versions
from pipeline.record.jobs import job
from pipeline.record.tables import Embedding, GateDecision, Job, ModelVersion, Region
from pipeline.runtime import Runtime
from pipeline.training import finetune as finetuning
from pipeline.training.finetune import run_finetune
from pipeline.training.gate import Verdict
from tests.loop import Loop, make_loop, tiny_model


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    made = make_loop(tmp_path)
    made.accept_many(4, 3)
    return made


def run(loop: Loop, progress: Callable[[int, int | None], None] = lambda *_: None) -> dict:
    return run_finetune(loop.runtime, progress)


def rule(monkeypatch: pytest.MonkeyPatch, promote: bool) -> None:
    """Fix the verdict: what a random tiny network learns in six steps is not the matter here."""
    judge = finetuning.gate.decide

    def fixed(*args: object, **options: object) -> Verdict:
        metrics = judge(*args, **options).metrics  # type: ignore[arg-type]
        return Verdict(promote, "Promoted: so." if promote else "Refused: so.", metrics)

    monkeypatch.setattr(finetuning.gate, "decide", fixed)


def serving(loop: Loop) -> str:
    with loop.runtime.sessions() as session:
        version = versions.serving(session)
        assert version is not None
        return version.name


def promote_by_hand(loop: Loop, name: str) -> None:
    with loop.runtime.sessions.begin() as session:
        versions.promote(session, versions.find(session, name))


def rows(loop: Loop, table: type) -> list:
    with loop.runtime.sessions() as session:
        return list(session.query(table))


def test_the_gate_decides_on_real_curves_and_keeps_all_of_it(loop: Loop) -> None:
    seen: list[tuple[int, int | None]] = []
    result = run(loop, lambda done, total: seen.append((done, total)))
    assert result["status"] in ("promoted", "refused")
    (decision,) = rows(loop, GateDecision)
    assert decision.promoted == (result["status"] == "promoted")
    assert decision.reason == result["reason"]
    assert decision.metrics["regions"] == 3
    assert {"candidate", "serving", "bootstrap"} <= set(decision.metrics)
    (row,) = rows(loop, Job)
    assert (row.status, row.message) == ("done", result["reason"])
    done = [step for step, _ in seen]
    assert done == sorted(done)
    assert seen[-1] == (19, 19)  # 7 embeddings, 6 steps, 2 x 3 hold-out regions


def test_promotion_changes_what_serves_and_keeps_the_encoder(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(monkeypatch, promote=True)
    result = run(loop)
    assert result["status"] == "promoted"
    assert serving(loop) == result["candidate"] == result["serving"]
    base, candidate = rows(loop, ModelVersion)
    assert base.encoder == candidate.encoder
    assert base.sha256 != candidate.sha256


def test_refusal_changes_nothing(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    rule(monkeypatch, promote=False)
    assert run(loop)["status"] == "refused"
    assert serving(loop) == "base"
    assert [version.status for version in rows(loop, ModelVersion)] == ["serving", "refused"]


def test_the_same_regions_are_judged_once(loop: Loop) -> None:
    run(loop)
    again = run(loop)
    assert again["status"] == "unchanged"
    assert "judged before" in again["reason"]
    assert len(rows(loop, Job)) == len(rows(loop, GateDecision)) == 1


def test_training_starts_from_the_base_every_time(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(monkeypatch, promote=True)
    started: list[SegNext] = []
    train = finetuning.finetune

    def watch(model: SegNext, *args: object, **options: object) -> SegNext:
        started.append(model)
        return train(model, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(finetuning, "finetune", watch)
    run(loop)
    loop.accept("train")
    run(loop)
    first, second = (model.head.seg_conv.weight.tolist() for model in started)
    assert first == second
    assert serving(loop) == "v3"


def test_few_hold_out_regions_are_refused_with_the_reason(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.accept_many(4, 2)
    result = run(loop)
    assert result["status"] == "refused"
    assert "2 accepted hold-out regions" in result["reason"]
    assert serving(loop) == "base"


def test_masks_on_hold_out_images_alone_train_nothing(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    loop.accept_many(0, 4)
    with pytest.raises(NotEnoughDataError, match="hold-out"):
        run(loop)
    (row,) = rows(loop, Job)
    assert row.status == "failed"


def test_one_lost_image_and_one_damaged_mask_do_not_stop_it(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    from pipeline.images.catalog import image_key

    lost = loop.images()[0]
    loop.runtime.store.delete(image_key(lost))
    with loop.runtime.sessions.begin() as session:
        session.query(Region).order_by(Region.id.desc()).first().mask = b"no png"
    result = run(loop)
    assert result["metrics"]["regions"] == 2
    assert caplog.text.count("is left out") == 2


def test_a_crash_in_training_leaves_serving_untouched_and_runs_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> SegNext:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "finetune", crash)
        with pytest.raises(MemoryError):
            run(loop)
    assert serving(loop) == "base"
    assert run(loop)["status"] in ("promoted", "refused")


def test_a_crash_in_the_gate_goes_on_with_the_trained_candidate(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> Verdict:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(finetuning.gate, "decide", crash)
        with pytest.raises(MemoryError):
            run(loop)
    assert serving(loop) == "base"
    result = run(loop)
    assert result["candidate"] == "v2"
    assert len(rows(loop, ModelVersion)) == 2


def test_a_rollback_during_the_comparison_is_noticed(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(monkeypatch, promote=True)
    run(loop)
    loop.accept("train")
    judge = finetuning.gate.decide
    calls = []

    def roll_back_first(*args: object, **options: object) -> Verdict:
        if not calls:
            with loop.runtime.sessions.begin() as session:
                versions.rollback(session)
        calls.append(1)
        return judge(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(finetuning.gate, "decide", roll_back_first)
    run(loop)
    assert len(calls) == 2
    newest = rows(loop, GateDecision)[-1]
    base = next(version for version in rows(loop, ModelVersion) if version.name == "base")
    assert newest.serving_id == base.id


@pytest.mark.parametrize("promoted", [True, False])
def test_a_candidate_that_is_promoted_during_the_comparison_goes_on_serving(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, promoted: bool
) -> None:
    rule(monkeypatch, promoted)
    judge = finetuning.gate.decide

    def promote_first(*args: object, **options: object) -> Verdict:
        promote_by_hand(loop, "v2")
        return judge(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(finetuning.gate, "decide", promote_first)
    result = run(loop)
    assert result["status"] == ("promoted" if promoted else "refused")
    assert result["serving"] == serving(loop) == "v2"
    assert {v.name: v.status for v in rows(loop, ModelVersion)} == {
        "base": "retired",
        "v2": "serving",
    }
    (decision,) = rows(loop, GateDecision)  # with what it was really compared with
    assert (decision.promoted, decision.serving_id) == (promoted, 1)
    assert run(loop)["status"] == "unchanged"


def test_a_candidate_that_is_promoted_before_the_comparison_is_not_compared_with_itself(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = finetuning._judge

    def promote_first(*args: object) -> dict:
        promote_by_hand(loop, "v2")
        return judge(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(finetuning, "_judge", promote_first)
    result = run(loop)
    assert (result["status"], result["metrics"]) == ("promoted", {})
    assert result["reason"] == "v2 was promoted before it was judged."
    assert serving(loop) == "v2"
    assert run(loop)["status"] == "unchanged"


def test_a_killed_fine_tune_goes_on_where_it_was(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.finetune.SAVE_SECONDS", 0.0)
    began: list[int] = []

    def die(done: int, total: int | None) -> None:
        if done >= 10:  # after three of six steps, which follow seven usable regions
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(loop, die)
    (state,) = (loop.runtime.settings.home / finetuning.STATES).glob("finetune-*.pt")
    assert state.stat().st_mode & 0o077 == 0
    run(loop, lambda done, total: began.append(done))
    assert not state.exists()
    assert next(done for done in began if done > 7) == 11  # the fourth step


def test_a_run_that_another_has_overtaken_decides_nothing(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule(monkeypatch, promote=True)
    compare = finetuning._compare

    def overtaken(*args: object) -> Verdict:
        with loop.runtime.sessions.begin() as session:
            row = session.query(Job).filter_by(status="running").one()
            jobs.cancel(session, row.id)
        return compare(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(finetuning, "_compare", overtaken)
    with pytest.raises(JobEndedError, match="cancelled, or another process"):
        run(loop)
    assert serving(loop) == "base"
    with loop.runtime.sessions() as session:
        assert session.query(GateDecision).count() == 0
        assert [row.status for row in session.query(Job)] == ["cancelled"]


def test_two_fine_tunes_do_not_run_at_once(loop: Loop) -> None:
    with job(loop.runtime.sessions, "finetune", exclusive=True), pytest.raises(BusyError):
        run(loop)


def test_config_comes_from_the_settings(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[FineTuneConfig] = []

    def stop(
        model: SegNext, _: object, config: FineTuneConfig, *__: object, **___: object
    ) -> SegNext:
        seen.append(config)
        return model

    monkeypatch.setattr(finetuning, "finetune", stop)
    run(loop)
    assert (seen[0].steps, seen[0].batch) == (6, 2)


def test_samples_are_embedding_and_mask(loop: Loop) -> None:
    from pipeline.training.samples import Samples
    from pipeline.training.snapshots import take_snapshot

    runtime = loop.runtime
    _, model = runtime.serving.current()
    taken = take_snapshot(runtime.sessions)
    with runtime.sessions() as session:
        regions = snapshots.regions(session, taken, "train")
    samples = Samples(regions, runtime.embeddings, model)
    assert len(samples) == len(list(samples)) == 4
    assert len(samples[1:]) == 3
    embedding, mask = samples[0]
    assert embedding.image_size == mask.shape == (64, 64)
    assert mask.dtype == np.bool_


def test_a_new_encoder_has_seen_every_image_before_it_serves(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rule(monkeypatch, promote=True)
    loop.runtime.registry.ensure_base()
    loop.accept("train", was_cancelled=True)  # an image that no fine-tune looks at
    save(tiny_model(7), tmp_path / "other.safetensors")
    settings = loop.runtime.settings
    model = settings.model.model_copy(update={"base": tmp_path / "other.safetensors"})
    changed = settings.model_copy(update={"model": model})
    told: list[tuple[int, int | None]] = []
    result = run_finetune(Runtime(changed), lambda done, total: told.append((done, total)))
    assert result["status"] == "promoted"
    # It says so all along, or the job would be taken for dead: after 7 embeddings, 6 steps and
    # 2 x 3 hold-out regions, one image that nothing had encoded.
    assert told[-2:] == [(19, 20), (20, 20)]
    (row,) = rows(loop, Job)
    assert (row.done, row.total) == (20, 20)
    with loop.runtime.sessions() as session:
        encoder = versions.find(session, result["candidate"]).encoder
        seen = session.query(Embedding).filter_by(encoder=encoder).count()
        assert encoder != versions.find(session, "base").encoder
    assert seen == len(loop.images()) == 8
