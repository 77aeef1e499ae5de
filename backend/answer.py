"""From the JSON of ``POST /predict`` to the predictions, whichever server took the request."""

from __future__ import annotations

from typing import Any

from backend.batch import stored_answers
from backend.click.click import answer_click
from backend.process.services import Services
from backend.request.question import Question, read_question
from model.errors import MaskloopError


def answer(services: Services, body: Any) -> tuple[str, list[object]]:
    """Answer one request.

    Returns:
        What was asked ("click", "stored" or "nothing"), and one prediction for each task.

    Raises:
        MaskloopError: the request cannot be understood, or its task's image cannot be read.
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
    """Have embeddings prepared for a task that was opened or clicked on, and for the next ones."""
    view = question.tasks[0]
    try:
        url = view.url(question.config.image_field)
    except MaskloopError:  # The answer to a click reports this.
        return
    services.warming.opened(question.project_id, view.id, url, itself=not question.asked)
