"""Masks of a task's objects before anyone opens it: a prediction that an annotator can accept."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.errors import MaskloopError
from model.inference.proposals import Proposal, ProposalConfig, propose
from model.progress import Progress, silent
from pipeline.errors import LabelConfigError, LabelStudioError
from pipeline.labelstudio.client import Json
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.labelstudio.connect import TITLE
from pipeline.labelstudio.regions import label_of, output_region
from pipeline.masks import rle
from pipeline.masks.ops import clean
from pipeline.precompute.encode import encode_task
from pipeline.record.tables import Round, RoundItem
from pipeline.runtime import Runtime
from pipeline.selection.label_order import our_proposals, proposals_version, round_version
from pipeline.sync.webhooks import task_of

log = logging.getLogger(__name__)

# Of one prediction's JSON: Label Studio sends a task's predictions along with each click on it.
MOST_BYTES = 1_000_000
NOT_WAITING = "It is annotated already, or not in the project; name a task that waits."


@dataclass(frozen=True)
class ProposeReport:
    """What proposing masks for a project came to.

    Attributes:
        tasks: how many have no annotation.
        left: of them, those that the serving version had proposed for already, with that label, or
            in vain. With a limit, as far as it had to look.
        proposed: of them, those that were given proposals, of ``regions`` masks in all.
        problems: task id in Label Studio -> sentence.
        advice: what keeps annotators from seeing the proposals, as sentences.
    """

    tasks: int
    left: int
    proposed: int
    regions: int
    problems: dict[int, str]
    advice: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """Where the proposals of one run go, and as what."""

    project_id: int
    config: LabelConfig
    label: str
    tolerance: float  # of outlines


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
    """Propose masks for the tasks of a project that have no annotation, those of its round first.

    A task's proposals are one prediction, which takes the place of an earlier call's; predictions
    and annotations of others stay as they are. One task that fails does not stop the rest. Where
    nothing is found the prediction is empty, so that the next call need not look again.

    Args:
        only: these tasks alone, by their ids in Label Studio; they are always proposed for anew.
        limit: stop after so many tasks; those that failed do not count, or they would be all that
            is ever tried.
        label: of the masks; None: the first that the labelling config gives them.
        again: also tasks that have proposals of the serving version with this label.

    Raises:
        LabelStudioError: out of reach, or no such project.
        LabelConfigError: its labelling config lacks what masks need, or has no such label.
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
    """Make one prediction of what is found on a task's image; of how many masks.

    Args:
        task: its id in Label Studio.
        row: the id of its row.

    Raises:
        MaskloopError: the image cannot be had, or Label Studio refuses the prediction.
    """
    image_id = encode_task(runtime, row)
    version, model = runtime.serving.current()
    found = propose(model, runtime.embeddings.get(image_id, model), config, progress)
    regions = proposed_regions(found, target, task)
    client = runtime.label_studio
    ours, newest_round = _names(runtime, target)
    former = client.predictions(task)
    prediction = {
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
            # Whoever is handed tasks sees the predictions of the round's version and no others.
            client.update_prediction(old["id"], task=task, result=regions)
    return len(regions)


def _target(runtime: Runtime, project_id: int, label: str | None) -> Target:
    client = runtime.label_studio
    project = client.project(project_id)
    if project is None:
        raise LabelStudioError(
            f"Label Studio at {client.url} has no project {project_id}; "
            "look the number up in the address of its page."
        )
    config = read_label_config(str(project["label_config"]))
    if label is not None and label not in config.labels:
        raise LabelConfigError(
            f"The masks' labels are {', '.join(config.labels)}, and {label!r} is not among them; "
            "name one of them."
        )
    return Target(
        project_id,
        config,
        config.labels[0] if label is None else label,
        runtime.settings.label_studio.outline_tolerance,
    )


def _newest_round(session: Session, target: Target) -> Round | None:
    rounds = select(Round).where(Round.ls_project_id == target.project_id)
    return session.scalars(rounds.order_by(Round.id.desc()).limit(1)).first()


def _names(runtime: Runtime, target: Target) -> tuple[frozenset[str], str | None]:
    """The model versions that our proposals stand under, and that of the newest round.

    Asked for each task: a call may run for hours, and both versions and rounds come meanwhile.
    """
    with runtime.sessions() as session:
        newest = _newest_round(session, target)
        return our_proposals(session), None if newest is None else round_version(newest.number)


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
        rank: dict[int, int] = {}
        if (newest := _newest_round(session, target)) is not None:
            items = select(RoundItem).where(RoundItem.round_id == newest.id)
            rank = {item.task_id: item.rank for item in session.scalars(items)}
        rows.sort(key=lambda row: (rank.get(row.id, math.inf), row.ls_task_id))
        return {row.ls_task_id: row.id for row in rows}


def _stand(runtime: Runtime, target: Target, task: int) -> bool:
    """Whether a task has proposals of the serving version with the label that is wanted, or the
    empty ones of an image on which it found nothing."""
    version, _ = runtime.serving.current()
    return any(
        prediction["model_version"] == proposals_version(version.name)
        and {label_of(region) for region in prediction["result"]} <= {target.label}
        for prediction in runtime.label_studio.predictions(task)
    )


def proposed_regions(found: Sequence[Proposal], target: Target, task: int) -> list[Json]:
    """What Label Studio shows for proposals: regions, the largest first, so that the small
    ones are drawn on top; as many of the steadiest as ``MOST_BYTES`` hold."""
    kept: list[tuple[float, Json]] = []
    budget = MOST_BYTES
    for proposal in sorted(found, key=lambda proposal: -proposal.stability):
        click, prediction = proposal.click, proposal.prediction
        mask = clean(prediction.mask(), [(click.row, click.col)])
        if not mask.any():  # less than a pixel of a small image
            continue
        name = f"{target.project_id}/{task}/{target.label}/proposal/{click.row}/{click.col}"
        height, width = prediction.image_size
        region = output_region(
            region_id=hashlib.sha256(name.encode()).hexdigest()[:12],
            rle=rle.encode(mask),
            height=height,
            width=width,
            label=target.label,
            config=target.config,
            score=proposal.score,
            tolerance=target.tolerance,
        )
        size = len(json.dumps(region))
        if size > budget:
            log.warning("task %d: a proposal of %d bytes has no room beside the others", task, size)
            continue
        budget -= size
        kept.append((proposal.area, region))
    return [region for _, region in sorted(kept, key=lambda pair: -pair[0])]


def _show(runtime: Runtime, target: Target) -> tuple[str, ...]:
    """Have Label Studio show the proposals, unless somebody chose otherwise; advice on the rest."""
    client = runtime.label_studio
    version, _ = runtime.serving.current()
    newest = proposals_version(version.name)
    ours, newest_round = _names(runtime, target)
    project = client.project(target.project_id) or {}
    shown = project.get("model_version") or ""
    # TITLE stands there since `maskloop connect`: the backend's answers, which a task that nobody
    # opened has none of.
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
    """What says anew, at each step within a task, how many are done: a task may take a quarter of
    an hour, and a job that says nothing for minutes is taken for dead."""
    return lambda *_: progress(done, total)
