"""Writes a round to Label Studio, so that its annotators get the tasks in our order.

The order is written in two forms, because annotators have two ways to get tasks: the Label button
follows the scores of predictions, and "Label tasks as displayed" follows the current tab of the
data manager.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.model_versions import our_proposals, round_version
from pipeline.labelstudio.types import PredictionJson, RegionJson
from pipeline.record import rounds, versions
from pipeline.record.tables import Round
from pipeline.runtime import Runtime

log = logging.getLogger(__name__)

SAMPLING = "Uncertainty sampling"  # hands out the lowest score of the project's model version first
SCORE_FIELD = "al_score"  # in a task's data: Label Studio cannot order by a task's meta
ROUND_FIELD = "round"
SCORE_DIGITS = 6  # after the point


def view_title(number: int) -> str:
    return f"Round {number}"


def write_round(runtime: Runtime, round_id: int) -> int:
    """Write a round's order to its project; call it again after a failure, or to restore the order.

    The last request switches the project to the new order, so a failure before it keeps the
    former order.

    Returns:
        How many tasks were written; tasks deleted in Label Studio meanwhile are left out.

    Raises:
        LabelStudioError: Label Studio is out of reach or refuses a request.
    """
    client = runtime.label_studio
    with runtime.sessions() as session:
        chosen = session.get_one(Round, round_id)
        ranked = rounds.ranked_tasks(session, round_id)
        ours = our_proposals(versions.names(session).values())
    project_id, number = chosen.ls_project_id, chosen.number
    scores = {
        # The lowest score comes first. Scores are evenly spaced in (0, 1) and never have an
        # exponent, because some databases sort a field of a task's data as text.
        task_id: round((rank + 1) / (len(ranked) + 1), SCORE_DIGITS)
        for rank, task_id in enumerate(ranked)
    }
    marked = {task_id: _mark(client, task_id, number, scores[task_id], ours) for task_id in ranked}
    version = round_version(number)
    client.delete_predictions(project_id, version)  # from an earlier attempt that failed
    predictions: list[PredictionJson] = [
        {"task": task_id, "model_version": version, "score": scores[task_id], "result": regions}
        for task_id, regions in marked.items()
        if regions is not None
    ]
    for some in _portions(predictions):
        client.import_predictions(project_id, some)
    _save_view(client, project_id, number)
    client.update_project(project_id, model_version=version, sampling=SAMPLING)
    with runtime.sessions.begin() as session:
        rounds.note_written(session, round_id)
    log.info("Round %d of project %d: %d tasks are in order.", number, project_id, len(predictions))
    return len(predictions)


def _mark(
    client: LabelStudio, ls_task_id: int, number: int, score: float, ours: frozenset[str]
) -> list[RegionJson] | None:
    """Write the round and the score into a task's data.

    Returns:
        The regions proposed for the task; None when the task no longer exists. An annotator who
        labels a round sees only the predictions of the round's version, so those must contain the
        proposed regions.
    """
    task = client.task(ls_task_id)
    if task is None:
        return None
    marked = {**task["data"], SCORE_FIELD: score, ROUND_FIELD: number}
    if marked != task["data"]:
        client.update_task_data(ls_task_id, marked)
    proposed = (p for p in task["predictions"] if p["model_version"] in ours)
    return next((list(prediction["result"]) for prediction in proposed), [])


def _portions(predictions: list[PredictionJson]) -> Iterator[list[PredictionJson]]:
    """Predictions without regions as one list; then each of the others, which are large, alone."""
    bare = [prediction for prediction in predictions if not prediction["result"]]
    if bare:
        yield bare
    yield from ([prediction] for prediction in predictions if prediction["result"])


def _save_view(client: LabelStudio, project_id: int, number: int) -> None:
    title = view_title(number)
    only_this_round = {
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
