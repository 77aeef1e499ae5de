"""Proposes masks for a task before it is opened, as a prediction that an annotator can accept."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from model.errors import MaskloopError
from model.inference.proposals import Proposal, ProposalConfig, propose
from model.progress import Progress, silent
from pipeline.errors import LabelConfigError
from pipeline.images.catalog import task_of
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.connect import TITLE
from pipeline.labelstudio.model_versions import our_proposals, proposals_version, round_version
from pipeline.labelstudio.projects import find_project
from pipeline.labelstudio.regions import label_of, output_region
from pipeline.labelstudio.types import PredictionJson, RegionJson
from pipeline.masks.coded import CodedMask
from pipeline.masks.ops import clean
from pipeline.precompute.encode import encode_task
from pipeline.record import rounds, versions
from pipeline.runtime import Runtime

log = logging.getLogger(__name__)

# Limit of one prediction's JSON: Label Studio sends a task's predictions with every click on it.
MOST_BYTES = 1_000_000
NOT_WAITING = (
    "It is annotated already, or is not in the project; name a task without an annotation."
)


@dataclass(frozen=True)
class ProposeReport:
    """The result of proposing masks for a project.

    Attributes:
        tasks: number of tasks without an annotation.
        left: how many of them were left alone, because the serving version had already proposed
            masks with this label for them, or had found none. With a limit, only the tasks that
            were checked count.
        proposed: how many of them got proposals now.
        regions: number of proposed masks in all.
        problems: task id in Label Studio -> sentence.
        advice: sentences about settings that hide the proposals from annotators.
    """

    tasks: int
    left: int
    proposed: int
    regions: int
    problems: dict[int, str]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """The project, labelling config and label that the proposals of one run are written for."""

    project_id: int
    config: LabelConfig
    label: str
    tolerance: float  # of outlines, as in label_studio.outline_tolerance


def propose_project(
    runtime: Runtime,
    project_id: int,
    *,
    only: Collection[int] = (),
    limit: int | None = None,
    label: str | None = None,
    again: bool = False,
    config: ProposalConfig,
    progress: Progress = silent,
) -> ProposeReport:
    """Propose masks for the tasks of a project that have no annotation, tasks of its round first.

    The proposals of a task are one prediction, which replaces that of an earlier call; other
    predictions and all annotations stay as they are. A task that fails does not stop the rest.
    When no object is found, the prediction is empty, so that the next call skips the task.

    Args:
        only: only these tasks, by their ids in Label Studio, even if they have proposals.
        limit: stop after this many tasks. Tasks that fail do not count, or a few tasks that always
            fail would use up the limit of every call.
        label: of the masks; None: the first mask label of the labelling config.
        again: also propose for tasks with proposals of the serving version with this label.

    Raises:
        LabelStudioError: Label Studio is out of reach, or has no such project.
        LabelConfigError: the labelling config lacks what masks need, or has no such label.
    """
    target = _target(runtime, project_id, label)
    rows = _waiting(runtime, target, only)
    anew = bool(again or only)
    problems = {task: NOT_WAITING for task in only if task not in rows}
    total = len(rows) if limit is None else min(limit, len(rows))
    left = tried = proposed = regions = 0
    for looked, (task, row) in enumerate(rows.items()):
        if tried == limit:
            break
        report = _at(looked if limit is None else tried, total, progress)
        report(0, None)
        try:
            if not anew and _stand(runtime, target, task):
                left += 1
                continue
            found = _propose_task(runtime, target, task, row, config, report)
        except MaskloopError as error:
            problems[task] = str(error)
            continue
        tried, proposed, regions = tried + 1, proposed + bool(found), regions + found
    progress(total, total)
    advice = _show(runtime, target) if proposed or left else ()
    return ProposeReport(len(rows), left, proposed, regions, problems, advice)


def _propose_task(
    runtime: Runtime,
    target: Target,
    task: int,
    row: int,
    config: ProposalConfig,
    progress: Progress,
) -> int:
    """Write the masks that are found on a task's image as one prediction.

    Args:
        task: its id in Label Studio.
        row: the id of its row.

    Returns:
        The number of masks.

    Raises:
        MaskloopError: the image cannot be fetched, or Label Studio refuses the prediction.
    """
    image_id = encode_task(runtime, row)
    version, model = runtime.serving.current()
    found = propose(model, runtime.embeddings.get(image_id, model), config, progress)
    regions = proposed_regions(found, target, task)
    client = runtime.label_studio
    ours, newest_round = _names(runtime, target)
    former = client.predictions(task)
    prediction: PredictionJson = {
        "task": task,
        "model_version": proposals_version(version.name),
        "score": round(fmean(region["score"] for region in regions), 4) if regions else 0.0,
        "result": regions,
    }
    client.import_predictions(target.project_id, [prediction])
    for old in former:
        if old["model_version"] in ours:
            client.delete_prediction(old["id"])
        elif old["model_version"] == newest_round:
            # Annotators who label a round see only the predictions of the round's version.
            client.update_prediction(old["id"], task=task, result=regions)
    return len(regions)


def _target(runtime: Runtime, project_id: int, label: str | None) -> Target:
    project = find_project(runtime.label_studio, project_id)
    config = read_label_config(str(project["label_config"]))
    if label is not None and label not in config.labels:
        raise LabelConfigError(
            f"The mask labels are {', '.join(config.labels)}, and {label!r} is not among them; "
            "name one of them."
        )
    return Target(
        project_id,
        config,
        config.labels[0] if label is None else label,
        runtime.settings.label_studio.outline_tolerance,
    )


def _names(runtime: Runtime, target: Target) -> tuple[frozenset[str], str | None]:
    """The model versions of our predictions, and the model version of the newest round.

    This is read for each task, because a call may run for hours, and versions and rounds may be
    added meanwhile.
    """
    with runtime.sessions() as session:
        newest = rounds.newest(session, target.project_id)
        names = versions.names(session).values()
    return our_proposals(names), None if newest is None else round_version(newest.number)


def _waiting(runtime: Runtime, target: Target, only: Collection[int]) -> dict[int, int]:
    """The tasks without an annotation, those of the newest round first: task -> id of its row."""
    remote = [
        task
        for task in runtime.label_studio.tasks(target.project_id)
        if not task.annotations and (not only or task.id in only)
    ]
    with runtime.sessions.begin() as session:
        field = target.config.image_field
        rows = [task_of(session, target.project_id, task.id, task.data, field) for task in remote]
        session.flush()
        newest = rounds.newest(session, target.project_id)
        rank = {} if newest is None else rounds.ranks(session, newest.id)
        rows.sort(key=lambda row: (rank.get(row.id, math.inf), row.ls_task_id))
        return {row.ls_task_id: row.id for row in rows}


def _stand(runtime: Runtime, target: Target, task: int) -> bool:
    """Whether a task has a prediction of the serving version with the wanted label, or an empty
    one, because no object was found."""
    version, _ = runtime.serving.current()
    return any(
        prediction["model_version"] == proposals_version(version.name)
        and {label_of(region) for region in prediction["result"]} <= {target.label}
        for prediction in runtime.label_studio.predictions(task)
    )


def proposed_regions(found: Sequence[Proposal], target: Target, task: int) -> list[RegionJson]:
    """The regions that Label Studio shows for proposals, the largest first.

    In this order small regions are drawn on top. When they do not all fit into ``MOST_BYTES``, the
    proposals with the highest stability are kept.
    """
    kept: list[tuple[float, RegionJson]] = []
    budget = MOST_BYTES
    for proposal in sorted(found, key=lambda proposal: -proposal.stability):
        click, prediction = proposal.click, proposal.prediction
        mask = clean(prediction.mask(), [(click.row, click.col)])
        if not mask.any():  # less than a pixel of a small image
            continue
        name = f"{target.project_id}/{task}/{target.label}/proposal/{click.row}/{click.col}"
        region = output_region(
            region_id=hashlib.sha256(name.encode()).hexdigest()[:12],
            mask=CodedMask.of_mask(mask),
            label=target.label,
            config=target.config,
            score=proposal.score,
            tolerance=target.tolerance,
        )
        size = len(json.dumps(region))
        if size > budget:
            log.warning(
                "Task %d: a proposal of %d bytes is left out for lack of space.", task, size
            )
            continue
        budget -= size
        kept.append((proposal.area, region))
    return [region for _, region in sorted(kept, key=lambda pair: -pair[0])]


def _show(runtime: Runtime, target: Target) -> tuple[str, ...]:
    """Let Label Studio show the proposals, unless people chose other predictions.

    Returns:
        Sentences about settings that still hide the proposals from annotators.
    """
    client = runtime.label_studio
    version, _ = runtime.serving.current()
    newest = proposals_version(version.name)
    ours, newest_round = _names(runtime, target)
    project = find_project(client, target.project_id)
    shown = project.get("model_version") or ""
    # `maskloop connect` sets TITLE, which shows the answers of the backend; a task that was never
    # opened has none.
    if shown in ("", TITLE) or shown in ours - {newest}:
        client.update_project(target.project_id, model_version=newest)
        shown = newest
    advice = []
    if not project.get("show_collab_predictions"):
        advice.append(
            "Label Studio shows annotators no predictions in this project; switch on "
            '"Use predictions to prelabel tasks" in its settings, under Annotation.'
        )
    if shown not in (newest, newest_round):
        advice.append(
            f"Label Studio shows annotators the predictions of {shown!r} only; choose {newest!r} "
            "in the project's settings, under Annotation."
        )
    return tuple(advice)


def _at(done: int, total: int, progress: Progress) -> Progress:
    """A progress that reports the number of finished tasks again at every step within a task.

    A task may take a quarter of an hour, and a job without a sign of life for minutes counts as
    dead.
    """
    return lambda *_: progress(done, total)
