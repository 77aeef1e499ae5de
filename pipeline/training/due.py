"""When something is due by itself.

A fine-tune: by count, or by the clock if there is anything new at all. A round: when the last one
is labelled, or at the very first, and there are encoded images to choose from.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.precompute.encode import waiting_tasks
from pipeline.record.jobs import bury_dead, running
from pipeline.record.tables import Embedding, Job, Task, now
from pipeline.settings import Settings
from pipeline.training.snapshots import accepted_since, first_accepted_at, is_judged, last_judged

KIND = "finetune"
SELECT_KIND = "select"
RETRY_FAILED = timedelta(minutes=30)  # a job that failed is not due again before

MAX_CRASHES = 3  # in a row, before a crash counts as a failure


def due(session: Session, settings: Settings) -> bool:
    """Whether a fine-tune should start now. See ``FineTuneSettings`` for the two thresholds."""
    bury_dead(session, KIND)
    if running(session, KIND) is not None or _must_pause(session, KIND):
        return False
    judged = last_judged(session)
    new = accepted_since(session, None if judged is None else judged.created_at)
    since = first_accepted_at(session) if judged is None else judged.created_at
    if new == 0 or since is None:
        return False
    late = now() - since >= timedelta(hours=settings.finetune.every_hours)
    # Last, for it reads every mask: the same masks submitted again are news that change nothing.
    return (new >= settings.finetune.min_new_regions or late) and not is_judged(session)


def round_due(session: Session, project_id: int) -> bool:
    """Whether the project's next round should be chosen now.

    A promotion asks for one too; this is for the first, and for when no version is promoted.
    """
    bury_dead(session, SELECT_KIND)
    if running(session, SELECT_KIND) is not None or _must_pause(session, SELECT_KIND):
        return False
    tasks = select(Task.id).where(Task.ls_project_id == project_id).limit(1)
    queued = session.scalars(tasks.where(Task.status == "queued")).first()
    encoded = select(Embedding.id).where(Embedding.image_id == Task.image_id).exists()
    pool = session.scalars(tasks.where(Task.status == "pool", encoded)).first()
    # Not while images are still being encoded: a round drawn from the first few would be poor.
    return queued is None and pool is not None and not waiting_tasks(session, project_id)


def _must_pause(session: Session, kind: str) -> bool:
    """Without a pause, a job that cannot work would be tried at every look at the clock.

    A crash (no time of finishing) is tried again at once, unless it keeps crashing.
    """
    newest = select(Job).where(Job.kind == kind).order_by(Job.id.desc()).limit(MAX_CRASHES)
    last = list(session.scalars(newest))
    if not last or last[0].status != "failed":
        return False
    if last[0].finished_at is not None:
        return now() - last[0].finished_at < RETRY_FAILED
    keeps_crashing = len(last) == MAX_CRASHES and all(
        row.status == "failed" and row.finished_at is None for row in last
    )
    return keeps_crashing and now() - last[0].seen_at < RETRY_FAILED
