"""Decides when a fine-tune starts without a command.

It starts after enough new masks, or after some hours if there is at least one new mask.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy.orm import Session

from pipeline.record import regions, snapshots
from pipeline.record.jobs import must_pause, running
from pipeline.record.tables import now
from pipeline.settings import Settings
from pipeline.training.snapshots import is_judged

KIND = "finetune"
STATES = "work"  # folder in the home folder, of runs that were begun


def due(session: Session, settings: Settings) -> bool:
    """Whether a fine-tune should start now. Nothing is written.

    See ``FineTuneSettings`` for the two thresholds.
    """
    if running(session, KIND) is not None or must_pause(session, KIND):
        return False
    judged = snapshots.last_judged(session)
    new = regions.count_accepted(session, None if judged is None else judged.created_at)
    since = regions.first_accepted_at(session) if judged is None else judged.created_at
    if new == 0 or since is None:
        return False
    late = now() - since >= timedelta(hours=settings.finetune.every_hours)
    # This comes last because it is slow: masks submitted again without a change are not new data.
    return (new >= settings.finetune.min_new_regions or late) and not is_judged(session)
