"""Promotes a version on request, after its encoder has encoded every image of a task."""

from __future__ import annotations

from model.errors import MaskloopError
from model.progress import Progress, both, silent
from pipeline.embeddings.backlog import encode_all
from pipeline.record import versions
from pipeline.record.jobs import done_by, job
from pipeline.record.tables import ModelVersion
from pipeline.runtime import Runtime

KIND = "promote"


class OvertakenError(MaskloopError):
    """The serving version was changed while a promotion was being prepared."""


def promote(
    runtime: Runtime,
    name: str,
    *,
    at_once: bool = False,
    message: str | None = None,
    progress: Progress = silent,
) -> ModelVersion:
    """Let a version serve, whatever the gate decided; backends use it within a second or two.

    If its encoder is new, every image of a task is encoded first, while the present version keeps
    answering. That may take hours; it can be stopped, and a later call continues it.

    Args:
        at_once: do not wait for this encoding or for another promotion that is being prepared; the
            first click on each image then waits for its encoding.
        message: id of the queue's message that asks for this; a second delivery changes nothing.

    Raises:
        UnknownRecordError: there is no such version.
        CheckpointError: it cannot be loaded; the present version keeps serving.
        BusyError: another promotion is being prepared, and ``at_once`` is False.
        OvertakenError: the serving version was changed meanwhile, for example by a rollback. The
            newer change stays.
    """
    with runtime.sessions() as session:
        version = versions.find(session, name)
        if message is not None and done_by(session, KIND, message) is not None:
            return version
        before = versions.serving(session)
    # The job is exclusive only so that images are not encoded twice. ``at_once`` is for an
    # emergency, where nobody can wait hours for another job to end.
    with job(runtime.sessions, KIND, exclusive=not at_once) as handle:
        handle.result = {"version": version.name}  # Also when it fails, for a retry.
        # A version that cannot be loaded must not become the serving version.
        model = runtime.registry.load_to_serve(version)
        if not at_once:
            report = both(handle.progress, progress)
            encode_all(runtime.sessions, runtime.embeddings, model, report)
        with runtime.sessions.begin() as session:
            version = session.get_one(ModelVersion, version.id)
            versions.hold_serving(session)
            handle.hold(session)
            present = versions.serving(session)
            if not at_once and _id(present) not in (_id(before), version.id):
                raise OvertakenError(
                    f"{present.name if present else 'No version'} was made to serve while "
                    f"{version.name} was being prepared, and keeps serving. Promote "
                    f"{version.name} again if it should serve: its images are encoded."
                )
            versions.promote(session, version)
        handle.message = f"{version.name} serves now."
        handle.result = {"version": version.name, "message": message}
    return version


def _id(version: ModelVersion | None) -> int | None:
    return None if version is None else version.id
