"""Hand a round to Label Studio, so that its annotators get it in our order.

Two ways at once, because annotators take work in two ways: the Label button follows the scores of
predictions, and "Label tasks as displayed" follows the tab of the data manager it is pressed in.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from pipeline.labelstudio.client import Json, LabelStudio
from pipeline.record.tables import Round, RoundItem, Task, now
from pipeline.record.versions import versions

log = logging.getLogger(__name__)

SAMPLING = "Uncertainty sampling"  # hands out the lowest score of the project's model version first
SCORE_FIELD = "al_score"  # in a task's data: Label Studio cannot order by a task's meta
ROUND_FIELD = "round"


def round_version(number: int) -> str:
    """What Label Studio calls the model version that a round's scores stand under."""
    return f"round-{number}"


def proposals_version(name: str) -> str:
    """What Label Studio calls the model version that a version's proposals stand under."""
    return f"{name} proposals"


def our_proposals(session: Session) -> frozenset[str]:
    """What Label Studio calls the model versions that ``maskloop propose`` made predictions of.

    By name, each: predictions of somebody else's "RPN proposals" are not ours to take away.
    """
    return frozenset(proposals_version(version.name) for version in versions(session))


def view_title(number: int) -> str:
    return f"Round {number}"


def write_round(client: LabelStudio, session: Session, round_: Round) -> int:
    """Write a round's order to its project; again after a failure, or to restore it.

    The last call is the one that switches the project over, so a failure before it leaves the
    order that was.

    Returns:
        How many tasks were written; those deleted in Label Studio meanwhile are left out.

    Raises:
        LabelStudioError: Label Studio is out of reach or refuses a part.
    """
    project_id, number = round_.ls_project_id, round_.number
    ranked = session.scalars(
        select(Task.ls_task_id)
        .join(RoundItem, RoundItem.task_id == Task.id)
        .where(RoundItem.round_id == round_.id)
        .order_by(RoundItem.rank)
    ).all()
    scores = {
        # Low comes first. Evenly spread in (0, 1), never in exponent form: some databases order
        # a field of a task's data as text.
        task_id: round((rank + 1) / (len(ranked) + 1), 6)
        for rank, task_id in enumerate(ranked)
    }
    ours = our_proposals(session)
    marked = {task_id: _mark(client, task_id, number, scores[task_id], ours) for task_id in ranked}
    version = round_version(number)
    client.delete_predictions(project_id, version)  # of an attempt that failed half way
    predictions: list[Json] = [
        {"task": task_id, "model_version": version, "score": scores[task_id], "result": regions}
        for task_id, regions in marked.items()
        if regions is not None
    ]
    written = [prediction["task"] for prediction in predictions]
    for some in _portions(predictions):
        client.import_predictions(project_id, some)
    _save_view(client, project_id, number)
    client.update_project(project_id, model_version=version, sampling=SAMPLING)
    round_.written_at = now()
    log.info("round %d of project %d: %d tasks in order", number, project_id, len(written))
    return len(written)


def _mark(
    client: LabelStudio, ls_task_id: int, number: int, score: float, ours: frozenset[str]
) -> list[Json] | None:
    """Put the round and the score into a task's data.

    Returns:
        The regions proposed for it. Whoever is handed tasks sees the predictions of the round's
        version and no others, so the round's carries them. None when the task is gone.
    """
    task = client.task(ls_task_id)
    if task is None:
        return None
    marked = {**task["data"], SCORE_FIELD: score, ROUND_FIELD: number}
    if marked != task["data"]:
        client.update_task_data(ls_task_id, marked)
    proposed = (p for p in task["predictions"] if p["model_version"] in ours)
    return next((list(prediction["result"]) for prediction in proposed), [])


def _portions(predictions: list[Json]) -> Iterator[list[Json]]:
    """All those without regions at once; of the others, which are large, one at a time."""
    bare = [prediction for prediction in predictions if not prediction["result"]]
    if bare:
        yield bare
    yield from ([prediction] for prediction in predictions if prediction["result"])


def _save_view(client: LabelStudio, project_id: int, number: int) -> None:
    title = view_title(number)
    only_this_round: Json = {
        "filter": f"filter:tasks:data.{ROUND_FIELD}",
        "operator": "equal",
        "type": "Number",
        "value": number,
    }
    known = [view for view in client.views(project_id) if view["data"].get("title") == title]
    client.save_view(
        project_id,
        known[0]["id"] if known else None,
        {
            "title": title,
            "type": "list",
            "target": "tasks",
            "filters": {"conjunction": "and", "items": [only_this_round]},
            "ordering": [f"tasks:data.{SCORE_FIELD}"],
        },
    )
