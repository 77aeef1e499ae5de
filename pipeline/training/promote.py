"""Letting a version serve by hand: once its encoder has seen what people may open."""

from __future__ import annotations

from model.errors import MaskloopError
from model.progress import Progress, both, silent
from pipeline.precompute.encode import encode_all
from pipeline.record.jobs import done_by, job
from pipeline.record.tables import ModelVersion
from pipeline.registry import base as registry
from pipeline.runtime import Runtime

KIND = "promote"


class OvertakenError(MaskloopError):
    """Another version was made to serve while a promotion was being prepared."""


def promote(
    runtime: Runtime,
    name: str,
    *,
    at_once: bool = False,
    message: str | None = None,
    progress: Progress = silent,
) -> ModelVersion:
    """Let a version serve, whatever the gate said; backends follow within a second or two.

    Where its encoder is new, every image of a task is encoded first, while the present version
    goes on answering. That may take hours; it can be stopped, and goes on where it was.

    Args:
        at_once: wait neither for that nor for a promotion that is being prepared; the first click
            on each image then does.
        message: id of the queue's message that asks for it; asked twice, it is done once.

    Raises:
        UnknownRecordError: there is no such version.
        CheckpointError: it cannot be loaded; what served goes on serving.
        JobBusyError: another promotion is being prepared, and not ``at_once``.
        OvertakenError: what serves was changed meanwhile, by a rollback say. The newer wish counts.
    """
    with runtime.sessions() as session:
        version = registry.find(session, name)
        if message is not None and done_by(session, KIND, message) is not None:
            return version
        before = registry.serving(session)
    # Only encoding must not be done twice; in an emergency nobody can wait hours for it to end.
    with job(runtime.sessions, KIND, exclusive=not at_once) as handle:
        # A version that cannot be loaded must not be made the one that serves.
        model = registry.load_to_serve(version, runtime.store, runtime.settings)
        if not at_once:
            report = both(handle.progress, progress)
            encode_all(runtime.sessions, runtime.embeddings, model, report)
        with runtime.sessions.begin() as session:
            version = session.get_one(ModelVersion, version.id)
            registry.hold_serving(session)
            present = registry.serving(session)
            if not at_once and _id(present) not in (_id(before), version.id):
                raise OvertakenError(
                    f"{present.name if present else 'No version'} was made to serve while "
                    f"{version.name} was being prepared, and goes on serving. Ask again if "
                    f"{version.name} shall: its images are encoded."
                )
            registry.promote(session, version)
        handle.message = f"{version.name} serves now."
        handle.result = {"version": version.name, "message": message}
    return version


def _id(version: ModelVersion | None) -> int | None:
    return None if version is None else version.id
