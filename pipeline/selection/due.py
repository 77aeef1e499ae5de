"""Decides when the next round starts without a command.

It starts when there is no round yet or the last one is labelled, and there are encoded images to
choose from.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from pipeline.record import tasks
from pipeline.record.jobs import must_pause, running

KIND = "select"


def round_due(session: Session, project_id: int) -> bool:
    """Whether the project's next round should be chosen now. Nothing is written.

    A promotion starts a round too; this function is for the first round, and for the time between
    promotions.
    """
    if running(session, KIND) is not None or must_pause(session, KIND):
        return False
    # Wait while images are still being encoded: a round chosen from the first few would be poor.
    return (
        not tasks.any_queued(session, project_id)
        and tasks.any_encoded_in_pool(session, project_id)
        and not tasks.to_encode(session, project_id)
    )
