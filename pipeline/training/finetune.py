"""A fine-tune from beginning to end: snapshot, training, gate, promotion or refusal.

Always from the base checkpoint, never from the last version: no run inherits the bias of another.
Only the decoder changes, so it trains on cached embeddings and every one of them stays valid. The
version that serves is touched in one transaction at the very end; a crash before it changes
nothing, and the next run goes on with the candidate if that was already trained.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session, sessionmaker

from model.network.segnext import SegNext
from model.progress import Progress, both, silent
from model.training.finetune import FineTuneConfig, finetune
from pipeline.embeddings.tiers import Embeddings
from pipeline.errors import NotEnoughDataError
from pipeline.precompute.encode import encode_all
from pipeline.record.jobs import job
from pipeline.record.tables import GateDecision, ModelVersion, Snapshot, SnapshotRegion
from pipeline.registry import base as registry
from pipeline.settings import Settings
from pipeline.storage.store import Store
from pipeline.training import gate
from pipeline.training import samples as holdout
from pipeline.training.due import KIND
from pipeline.training.snapshots import snapshot_regions, take_snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resources:
    """What a fine-tune works with."""

    sessions: sessionmaker[Session]
    store: Store
    embeddings: Embeddings
    settings: Settings


def run_finetune(
    sessions: sessionmaker[Session],
    store: Store,
    embeddings: Embeddings,
    settings: Settings,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Fine-tune on what is accepted now, and let the gate decide about the result.

    Returns:
        ``{"status": "promoted" | "refused" | "unchanged", "reason": a sentence, "snapshot": id}``
        and, unless unchanged, ``candidate``, ``serving`` (names) and ``metrics``. Unchanged means
        that these very regions were judged before.

    Raises:
        NotEnoughDataError: nothing to train on.
        JobBusyError: another fine-tune is running.
        CheckpointError: the base or the serving version cannot be loaded.
    """
    resources = Resources(sessions, store, embeddings, settings)
    with sessions.begin() as session:
        snapshot = take_snapshot(session)
    if (known := _judged(sessions, snapshot)) is not None:
        return {"status": "unchanged", "reason": known, "snapshot": snapshot.id}
    with job(sessions, KIND, exclusive=True) as handle:
        # Another process may have judged this snapshot while we waited for the job's turn.
        if (known := _judged(sessions, snapshot)) is not None:
            result: dict[str, Any] = {
                "status": "unchanged",
                "reason": known,
                "snapshot": snapshot.id,
            }
        else:
            result = _train_and_judge(resources, snapshot, both(handle.progress, progress))
        handle.result, handle.message = result, result["reason"]
    return result


def _train_and_judge(
    resources: Resources, snapshot: Snapshot, progress: Progress
) -> dict[str, Any]:
    settings = resources.settings
    with resources.sessions.begin() as session:
        base = registry.ensure_base(session, resources.store, settings)
        train = snapshot_regions(session, snapshot, "train")
        held_out = snapshot_regions(session, snapshot, "holdout")
    model = registry.load_version(base, resources.store, settings)
    sizes = len(train), len(held_out), settings.finetune.steps, 2 * len(held_out)
    steps = Steps(progress, *sizes)
    train = holdout.usable(train, resources.embeddings, model, steps.part(0))
    held_out = holdout.usable(held_out, resources.embeddings, model, steps.part(1))
    if not train:
        raise NotEnoughDataError(
            "Every accepted mask lies on a hold-out image, which is never trained on; "
            "label more images."
        )
    candidate = _candidate(resources, snapshot, base, model, train, steps.part(2))
    return _judge(resources, snapshot, candidate, held_out, steps)


def _candidate(
    resources: Resources,
    snapshot: Snapshot,
    base: ModelVersion,
    model: SegNext,
    train: list[SnapshotRegion],
    progress: Progress,
) -> ModelVersion:
    """The version trained on ``snapshot``; one that a crashed run left behind, if there is."""
    with resources.sessions() as session:
        left = session.scalars(
            select(ModelVersion).where(
                ModelVersion.snapshot_id == snapshot.id,
                ModelVersion.status == "candidate",
                ModelVersion.encoder == base.encoder,
            )
        ).first()
    if left is not None:
        log.info("Going on with %s, which an earlier run trained and could not judge.", left.name)
        return left
    chosen = resources.settings.finetune
    config = FineTuneConfig(
        steps=chosen.steps,
        batch=chosen.batch,
        learning_rate=chosen.learning_rate,
        seed=chosen.seed,
    )
    samples = holdout.Samples(train, resources.embeddings, model)
    trained = finetune(model, samples, config, progress)
    with resources.sessions.begin() as session:
        return registry.add_candidate(session, resources.store, trained, snapshot)


def _judge(
    resources: Resources,
    snapshot: Snapshot,
    candidate: ModelVersion,
    held_out: list[SnapshotRegion],
    steps: Steps,
) -> dict[str, Any]:
    """Compare with what serves, and write decision and promotion in one transaction."""
    measured: dict[int, gate.Answers] = {}
    while True:
        with resources.sessions() as session:
            serving = registry.serving(session)
        if serving is None:
            raise NotEnoughDataError(
                "No version serves; choose one with `maskloop models promote`."
            )
        if serving.id == candidate.id:
            verdict = gate.Verdict(True, f"{candidate.name} was promoted before it was judged.", {})
        else:
            verdict = _compare(resources, candidate, serving, held_out, measured, steps.part(3))
        if verdict.promote and candidate.encoder != serving.encoder:
            # The base has another encoder than what serves: first clicks must not wait for it.
            model = registry.load_to_serve(candidate, resources.store, resources.settings)
            # It may take hours, and a job that says nothing for minutes is taken for dead.
            encode_all(resources.sessions, resources.embeddings, model, steps.after())
        now_serving = _record(resources.sessions, candidate, serving, verdict)
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
    resources: Resources,
    candidate: ModelVersion,
    serving: ModelVersion,
    held_out: list[SnapshotRegion],
    measured: dict[int, gate.Answers],
    progress: Progress,
) -> gate.Verdict:
    """What the gate says; each version's answers are kept in ``measured`` by its id."""
    chosen = resources.settings.finetune
    for version in (candidate, serving):
        if version.id not in measured:
            # Measured as it would serve: read back from the store, in precision too.
            model = registry.load_to_serve(version, resources.store, resources.settings)
            measured[version.id] = holdout.answers(
                model,
                held_out,
                resources.embeddings,
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
    sessions: sessionmaker[Session],
    candidate: ModelVersion,
    serving: ModelVersion,
    verdict: gate.Verdict,
) -> ModelVersion | None:
    """Write the decision and act on it; what serves then, or None when a third version does.

    A candidate that was promoted meanwhile goes on serving, whatever the verdict is: it stands in
    the record as that about the version which served before, and nobody compares it with itself.
    """
    with sessions.begin() as session:
        registry.hold_serving(session)
        current = registry.serving(session)
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
            registry.promote(session, version)
        else:
            registry.refuse(session, version)
        return registry.serving(session)


def _judged(sessions: sessionmaker[Session], snapshot: Snapshot) -> str | None:
    """What the gate said about a candidate of ``snapshot``, if it was asked."""
    statement = (
        select(GateDecision.reason)
        .join(ModelVersion, ModelVersion.id == GateDecision.candidate_id)
        .where(ModelVersion.snapshot_id == snapshot.id)
    )
    with sessions() as session:
        reason = session.scalars(statement.order_by(GateDecision.id.desc()).limit(1)).first()
    return None if reason is None else f"These regions were judged before. {reason}"


class Steps:
    """One progress from several parts, each with a size of its own."""

    def __init__(self, progress: Progress, *sizes: int) -> None:
        self._progress = progress
        self._sizes = sizes

    def part(self, index: int) -> Progress:
        """The progress of one part; what it says of a total is not needed."""
        before, size = sum(self._sizes[:index]), self._sizes[index]

        def report(done: int, total: int | None) -> None:
            self._progress(before + min(done, size), sum(self._sizes))

        return report

    def after(self) -> Progress:
        """The progress of what follows the parts and was not foreseen; its total adds to theirs."""
        return _after(sum(self._sizes), self._progress)


def _after(offset: int, progress: Progress) -> Progress:
    def report(done: int, total: int | None) -> None:
        progress(offset + done, None if total is None else offset + total)

    return report
