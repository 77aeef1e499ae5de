"""Decides when the next round starts without a command.

It starts when there is no round yet, when the last one is labelled, when it never reached Label
Studio, or when another version serves since it was chosen; and when there are encoded images to
choose from. All of this is read from SQL, so a lost message costs only minutes.
"""

from __future__ import annotations

from sqlalchemy.orm import Session

from pipeline.record import rounds, tasks, versions
from pipeline.record.jobs import must_pause, running

KIND = "select"


def round_due(session: Session, project_id: int) -> bool:
    """Whether the project's next round should be chosen, or the last one written, now. Nothing is
    written."""
    if running(session, KIND) is not None or must_pause(session, KIND):
        return False
    newest, serving = rounds.newest(session, project_id), versions.serving(session)
    if newest is not None and newest.written_at is None:
        return True
    if (
        newest is not None
        and serving is not None
        and serving.promoted_at is not None
        and serving.promoted_at > newest.created_at
    ):
        # Images that were hard for the old version may be easy now, so the pool is scored again.
        return tasks.any_encoded_in_pool(session, project_id)
    # Wait while images are still being encoded: a round chosen from the first few would be poor.
    return (
        not tasks.any_queued(session, project_id)
        and tasks.any_encoded_in_pool(session, project_id)
        and not tasks.to_encode(session, project_id)
    )
