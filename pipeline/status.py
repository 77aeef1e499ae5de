"""How the loop stands, in numbers: ``maskloop status``, and the backend's page for people."""

from __future__ import annotations

import statistics
from datetime import datetime
from typing import Any

from sqlalchemy import Float, cast, func, select
from sqlalchemy.orm import Session

from pipeline.errors import ServiceError
from pipeline.queue import Enqueuer
from pipeline.record import versions
from pipeline.record.jobs import bury_dead
from pipeline.record.tables import (
    Effort,
    Embedding,
    Event,
    GateDecision,
    Image,
    Interaction,
    Job,
    ModelVersion,
    Round,
    RoundItem,
    Task,
)
from pipeline.settings import Settings
from pipeline.training.due import due
from pipeline.training.snapshots import accepted_since, last_judged

JOBS_SHOWN = 5
CLICKS_TIMED = 300  # newest ones, whose times say how fast a click is answered now


def status(session: Session, settings: Settings, enqueuer: Enqueuer) -> dict[str, Any]:
    """Everything that ``maskloop status`` shows, fit for JSON.

    A Redis that is away is said in ``queues_problem``, not raised: the record can still be read.
    """
    bury_dead(session)
    judged = last_judged(session)
    serving = versions.serving(session)
    return {
        "project": settings.label_studio.project,
        "tasks": _by_status(session),
        "tasks_with_problems": _count(session, select(Task).where(Task.problem.is_not(None))),
        "images": _count(session, select(Image)),
        "holdout_images": _count(session, select(Image).where(Image.split == "holdout")),
        "encoded_images": 0 if serving is None else _encoded(session, serving),
        "accepted_regions": accepted_since(session, None),
        "new_regions": accepted_since(session, None if judged is None else judged.created_at),
        "new_regions_for_a_finetune": settings.finetune.min_new_regions,
        "finetune_due": due(session, settings),
        "mean_clicks": session.scalar(select(func.avg(cast(Effort.clicks, Float)))),
        "mean_seconds": session.scalar(select(func.avg(Effort.seconds))),
        **_clicks(session),
        "open_events": _count(session, select(Event).where(Event.done_at.is_(None))),
        "serving": None if serving is None else serving.name,
        "serving_since": _iso(None if serving is None else serving.promoted_at),
        "last_decision": _decision(session),
        "round": _round(session),
        "jobs": _jobs(session),
        **_queues(enqueuer),
    }


def _count(session: Session, statement: Any) -> int:
    return session.scalar(select(func.count()).select_from(statement.subquery())) or 0


def _by_status(session: Session) -> dict[str, int]:
    counts = select(Task.status, func.count()).group_by(Task.status).order_by(Task.status)
    return {name: count for name, count in session.execute(counts)}


def _encoded(session: Session, serving: ModelVersion) -> int:
    images = select(Embedding.image_id).where(Embedding.encoder == serving.encoder).distinct()
    return _count(session, images)


def _clicks(session: Session) -> dict[str, Any]:
    """How many clicks were answered, and the milliseconds half and 95 % of the newest took."""
    newest = select(Interaction.milliseconds).order_by(Interaction.id.desc()).limit(CLICKS_TIMED)
    times = list(session.scalars(newest))
    # Quantiles need two values; a single one stands for itself.
    spread = times * 2 if len(times) == 1 else times
    cuts = statistics.quantiles(spread, n=100, method="inclusive") if times else []
    return {
        "clicks_answered": _count(session, select(Interaction.id)),
        "click_p50_ms": round(cuts[49], 1) if cuts else None,
        "click_p95_ms": round(cuts[94], 1) if cuts else None,
    }


def _decision(session: Session) -> dict[str, Any] | None:
    newest = select(GateDecision, ModelVersion.name).join(
        ModelVersion, ModelVersion.id == GateDecision.candidate_id
    )
    row = session.execute(newest.order_by(GateDecision.id.desc()).limit(1)).first()
    if row is None:
        return None
    decision, name = row
    return {
        "candidate": name,
        "promoted": decision.promoted,
        "reason": decision.reason,
        "at": _iso(decision.created_at),
    }


def _round(session: Session) -> dict[str, Any] | None:
    newest = session.scalars(select(Round).order_by(Round.id.desc()).limit(1)).first()
    if newest is None:
        return None
    items = select(Task.id).join(RoundItem, RoundItem.task_id == Task.id)
    items = items.where(RoundItem.round_id == newest.id)
    return {
        "project": newest.ls_project_id,
        "number": newest.number,
        "tasks": _count(session, items),
        "accepted": _count(session, items.where(Task.status == "accepted")),
        "in_label_studio": newest.written_at is not None,
    }


def _jobs(session: Session) -> list[dict[str, Any]]:
    newest = session.scalars(select(Job).order_by(Job.id.desc()).limit(JOBS_SHOWN))
    return [
        {
            "kind": job.kind,
            "status": job.status,
            "done": job.done,
            "total": job.total,
            "started": _iso(job.started_at),
            "message": job.message,
        }
        for job in newest
    ]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _queues(enqueuer: Enqueuer) -> dict[str, Any]:
    try:
        return {"queues": enqueuer.waiting(), "queues_problem": None}
    except ServiceError as error:
        return {"queues": None, "queues_problem": str(error)}
