"""The state of the loop in numbers, for ``maskloop status`` and the backend's status page."""

from __future__ import annotations

import statistics
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from pipeline.errors import ServiceError
from pipeline.queue import Enqueuer
from pipeline.record import (
    embeddings,
    events,
    images,
    interactions,
    jobs,
    regions,
    rounds,
    snapshots,
    tasks,
    versions,
)
from pipeline.runtime import Runtime
from pipeline.settings import Settings
from pipeline.training.due import due

JOBS_SHOWN = 5
CLICKS_TIMED = 300  # number of the newest clicks whose times are summarised


def status(runtime: Runtime) -> dict[str, Any]:
    """Everything that ``maskloop status`` shows, fit for JSON. Nothing is written.

    When Redis cannot be reached, ``queues_problem`` says so and nothing is raised: the record can
    still be read.
    """
    with runtime.sessions() as session:
        report = _read(session, runtime.settings)
    return {**report, "silent": runtime.silent(), **_queues(runtime.enqueuer)}


def _read(session: Session, settings: Settings) -> dict[str, Any]:
    judged = snapshots.last_judged(session)
    serving = versions.serving(session)
    clicks, seconds = regions.mean_effort(session)
    since = None if judged is None else judged.created_at
    return {
        "project": settings.label_studio.project,
        "tasks": tasks.count_by_status(session),
        "tasks_with_problems": len(tasks.problems(session)),
        "images": images.count(session),
        "holdout_images": images.count(session, holdout=True),
        "encoded_images": (
            0 if serving is None else embeddings.count_images(session, serving.encoder)
        ),
        "accepted_regions": regions.count_accepted(session),
        "new_regions": regions.count_accepted(session, since),
        "new_regions_for_a_finetune": settings.finetune.min_new_regions,
        "finetune_due": due(session, settings),
        "mean_clicks": clicks,
        "mean_seconds": seconds,
        **_clicks(session),
        "open_events": events.count_open(session),
        "serving": None if serving is None else serving.name,
        "serving_since": _iso(None if serving is None else serving.promoted_at),
        "last_decision": _decision(session),
        "round": _round(session),
        "jobs": _jobs(session),
    }


def _clicks(session: Session) -> dict[str, Any]:
    """The number of answered clicks, and p50 and p95 of the newest reply times in milliseconds."""
    times = interactions.newest_milliseconds(session, CLICKS_TIMED)
    # Quantiles need two values, so a single value is used twice.
    spread = times * 2 if len(times) == 1 else times
    cuts = statistics.quantiles(spread, n=100, method="inclusive") if times else []
    return {
        "clicks_answered": interactions.count(session),
        "click_p50_ms": round(cuts[49], 1) if cuts else None,
        "click_p95_ms": round(cuts[94], 1) if cuts else None,
    }


def _decision(session: Session) -> dict[str, Any] | None:
    last = versions.last_decision(session)
    if last is None:
        return None
    decision, name = last
    return {
        "candidate": name,
        "promoted": decision.promoted,
        "reason": decision.reason,
        "at": _iso(decision.created_at),
    }


def _round(session: Session) -> dict[str, Any] | None:
    newest = rounds.newest(session)
    if newest is None:
        return None
    count, accepted = rounds.progress(session, newest.id)
    return {
        "project": newest.ls_project_id,
        "number": newest.number,
        "tasks": count,
        "accepted": accepted,
        "in_label_studio": newest.written_at is not None,
    }


def _jobs(session: Session) -> list[dict[str, Any]]:
    found = []
    for job in jobs.newest(session, JOBS_SHOWN):
        crashed = jobs.outcome(job) == "crashed"
        found.append(
            {
                "kind": job.kind,
                "status": "failed" if crashed else job.status,
                "done": job.done,
                "total": job.total,
                "started": _iso(job.started_at),
                "message": jobs.CRASHED.format(kind=job.kind) if crashed else job.message,
            }
        )
    return found


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _queues(enqueuer: Enqueuer) -> dict[str, Any]:
    try:
        return {"queues": enqueuer.waiting(), "queues_problem": None}
    except ServiceError as error:
        return {"queues": None, "queues_problem": str(error)}
