"""Runs a complete fine-tune: snapshot, training, gate, promotion or refusal.

A fine-tune always starts from the base checkpoint and never from the last version, so no run
inherits the bias of another. Only the decoder changes, so training uses cached embeddings, and all
of them stay valid. The serving version changes in one transaction at the very end. A crash before
that changes nothing, and the next run continues with the candidate if it was already trained.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from model.network.segnext import SegNext
from model.progress import Progress, both, silent
from model.training.finetune import FineTuneConfig, finetune
from pipeline.embeddings.backlog import encode_all
from pipeline.errors import NotEnoughDataError
from pipeline.record import snapshots, versions
from pipeline.record.jobs import JobHandle, job
from pipeline.record.tables import GateDecision, ModelVersion, Snapshot, SnapshotRegion
from pipeline.runtime import Runtime
from pipeline.training import gate, samples
from pipeline.training.due import KIND, STATES
from pipeline.training.snapshots import take_snapshot

log = logging.getLogger(__name__)


def run_finetune(runtime: Runtime, progress: Progress = silent) -> dict[str, Any]:
    """Fine-tune on the masks that are accepted now, and let the gate decide about the result.

    Returns:
        ``{"status": "promoted" | "refused" | "unchanged", "reason": a sentence, "snapshot": id}``
        and, unless unchanged, ``candidate``, ``serving`` (names) and ``metrics``. "unchanged" means
        that the gate judged exactly these regions before.

    Raises:
        NotEnoughDataError: there is no accepted mask to train on.
        BusyError: another fine-tune is running.
        CheckpointError: the base or the serving version cannot be loaded.
    """
    snapshot = take_snapshot(runtime.sessions)
    if (known := _judged(runtime, snapshot)) is not None:
        return {"status": "unchanged", "reason": known, "snapshot": snapshot.id}
    with job(runtime.sessions, KIND, exclusive=True) as handle:
        # Another process may have judged this snapshot while we waited for the job's turn.
        if (known := _judged(runtime, snapshot)) is not None:
            result: dict[str, Any] = {
                "status": "unchanged",
                "reason": known,
                "snapshot": snapshot.id,
            }
        else:
            result = _train_and_judge(runtime, snapshot, handle, both(handle.progress, progress))
        handle.result, handle.message = result, result["reason"]
    return result


def _train_and_judge(
    runtime: Runtime, snapshot: Snapshot, handle: JobHandle, progress: Progress
) -> dict[str, Any]:
    settings = runtime.settings.finetune
    base = runtime.registry.ensure_base()
    with runtime.sessions() as session:
        train = snapshots.regions(session, snapshot, "train")
        held_out = snapshots.regions(session, snapshot, "holdout")
    model = runtime.registry.load(base)
    sizes = len(train), len(held_out), settings.steps, 2 * len(held_out)
    steps = Steps(progress, *sizes)
    train = samples.usable(train, runtime.embeddings, model, steps.part(0))
    held_out = samples.usable(held_out, runtime.embeddings, model, steps.part(1))
    if not train:
        raise NotEnoughDataError(
            "Every accepted mask lies on a hold-out image, which is never trained on; "
            "label more images."
        )
    candidate = _candidate(runtime, snapshot, base, model, train, steps.part(2))
    return _judge(runtime, snapshot, candidate, held_out, handle, steps)


def _candidate(
    runtime: Runtime,
    snapshot: Snapshot,
    base: ModelVersion,
    model: SegNext,
    train: list[SnapshotRegion],
    progress: Progress,
) -> ModelVersion:
    """The version trained on ``snapshot``: one that a crashed run left, else one trained now."""
    with runtime.sessions() as session:
        left = versions.unjudged(session, snapshot.id, base.encoder)
    if left is not None:
        log.info("Continuing with %s, which an earlier run trained but did not judge.", left.name)
        return left
    chosen = runtime.settings.finetune
    config = FineTuneConfig(
        steps=chosen.steps,
        batch=chosen.batch,
        learning_rate=chosen.learning_rate,
        seed=chosen.seed,
    )
    chosen_samples = samples.Samples(train, runtime.embeddings, model)
    # On this machine a killed run goes on from here; on another one it starts again.
    state = runtime.settings.home.resolve() / STATES / f"finetune-{snapshot.digest[:32]}.pt"
    trained = finetune(model, chosen_samples, config, progress, state=state)
    return runtime.registry.add_candidate(trained, snapshot)


def _judge(
    runtime: Runtime,
    snapshot: Snapshot,
    candidate: ModelVersion,
    held_out: list[SnapshotRegion],
    handle: JobHandle,
    steps: Steps,
) -> dict[str, Any]:
    """Compare with the serving version; write the decision and promotion in one transaction."""
    measured: dict[int, gate.Answers] = {}
    while True:
        with runtime.sessions() as session:
            serving = versions.serving(session)
        if serving is None:
            raise NotEnoughDataError(
                "No version serves; choose one with `maskloop models promote`."
            )
        if serving.id == candidate.id:
            verdict = gate.Verdict(True, f"{candidate.name} was promoted before it was judged.", {})
        else:
            verdict = _compare(runtime, candidate, serving, held_out, measured, steps.part(3))
        if verdict.promote and candidate.encoder != serving.encoder:
            # The base has another encoder than the serving version. Images are encoded before the
            # promotion, so that first clicks do not wait.
            model = runtime.registry.load_to_serve(candidate)
            # This may take hours, and a job without a sign of life for minutes counts as dead.
            encode_all(runtime.sessions, runtime.embeddings, model, steps.after())
        now_serving = _record(runtime, candidate, serving, verdict, handle)
        if now_serving is not None:
            break
        log.info("The serving version changed during the comparison; comparing with the new one.")
    log.info("%s: %s", candidate.name, verdict.reason)
    return {
        "status": "promoted" if verdict.promote else "refused",
        "reason": verdict.reason,
        "snapshot": snapshot.id,
        "candidate": candidate.name,
        "serving": now_serving.name,
        "metrics": verdict.metrics,
    }


def _compare(
    runtime: Runtime,
    candidate: ModelVersion,
    serving: ModelVersion,
    held_out: list[SnapshotRegion],
    measured: dict[int, gate.Answers],
    progress: Progress,
) -> gate.Verdict:
    """The gate's verdict; the answers of each version are kept in ``measured`` by its id."""
    chosen = runtime.settings.finetune
    for version in (candidate, serving):
        if version.id not in measured:
            # Measured as it would serve: with weights read from the store, in the same precision.
            model = runtime.registry.load_to_serve(version)
            measured[version.id] = samples.answers(
                model,
                held_out,
                runtime.embeddings,
                chosen.gate_clicks,
                _after(len(measured) * len(held_out), progress),
            )
    return gate.decide(
        measured[candidate.id],
        measured[serving.id],
        np.array([region.image_id for region in held_out], dtype=np.int64),
        min_regions=chosen.min_holdout_regions,
        seed=chosen.seed,
    )


def _record(
    runtime: Runtime,
    candidate: ModelVersion,
    serving: ModelVersion,
    verdict: gate.Verdict,
    handle: JobHandle,
) -> ModelVersion | None:
    """Write the decision and act on it, unless another process has taken the job over.

    A candidate that was promoted meanwhile keeps serving, whatever the verdict: the verdict is
    recorded against the version that served before, because no version is compared with itself.

    Returns:
        The version that serves then, or None when a third version serves, so that the candidate
        must be compared with that one.
    """
    with runtime.sessions.begin() as session:
        versions.hold_serving(session)
        handle.hold(session)
        current = versions.serving(session)
        if current is None or current.id not in (serving.id, candidate.id):
            return None
        session.add(
            GateDecision(
                candidate_id=candidate.id,
                serving_id=serving.id,
                promoted=verdict.promote,
                reason=verdict.reason,
                metrics=verdict.metrics,
            )
        )
        version = session.get_one(ModelVersion, candidate.id)
        if verdict.promote:
            versions.promote(session, version)
        else:
            versions.refuse(session, version)
        return versions.serving(session)


def _judged(runtime: Runtime, snapshot: Snapshot) -> str | None:
    """The gate's reason about a candidate of ``snapshot``, if the gate judged one."""
    with runtime.sessions() as session:
        reason = snapshots.judgement(session, snapshot.digest)
    return None if reason is None else f"These regions were judged before. {reason}"


class Steps:
    """One progress for several parts of the work, each with its own number of steps."""

    def __init__(self, progress: Progress, *sizes: int) -> None:
        self._progress = progress
        self._sizes = sizes

    def part(self, index: int) -> Progress:
        """The progress of one part; the total that it reports is ignored."""
        before, size = sum(self._sizes[:index]), self._sizes[index]

        def report(done: int, total: int | None) -> None:
            self._progress(before + min(done, size), sum(self._sizes))

        return report

    def after(self) -> Progress:
        """The progress of extra work after the parts; its total is added to theirs."""
        return _after(sum(self._sizes), self._progress)


def _after(offset: int, progress: Progress) -> Progress:
    def report(done: int, total: int | None) -> None:
        progress(offset + done, None if total is None else offset + total)

    return report
