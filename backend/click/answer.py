"""From the JSON of ``POST /predict`` to the predictions, whichever server took the request."""

from __future__ import annotations

from typing import Any

from backend.click.answer_click import answer_click
from backend.click.request import Question, read_question
from backend.tasks.batch import stored_answers
from backend.tasks.services import Services
from model.errors import MaskloopError
from pipeline.labelstudio.config import read_label_config


def answer(services: Services, body: Any) -> tuple[str, list[object]]:
    """What was asked (click, stored or nothing), and one prediction for each task.

    Raises:
        MaskloopError: the request means nothing, or its task has no image to be had.
    """
    question = read_question(body)
    if len(question.tasks) == 1:
        _warm(services, question)
    if not question.asked:
        return "stored", list[object](stored_answers(services, question))
    if question.gesture is None:
        return "nothing", [{"result": []} for _ in question.tasks]
    return "click", [answer_click(services, question)]


def _warm(services: Services, question: Question) -> None:
    """One task: somebody opened it or clicks on it, and the next will be opened soon."""
    view = question.tasks[0]
    try:
        url = view.url(read_label_config(question.label_config).image_field)
    except MaskloopError:  # told to whoever asked
        return
    services.warming.opened(question.project_id, view.id, url, itself=not question.asked)
