"""From the JSON of ``POST /predict`` to the predictions, whichever server took the request."""

from __future__ import annotations

from typing import Any

from backend.click import answer_click
from backend.context import read_question
from backend.services import Services
from backend.stored import stored_answers


def answer(services: Services, body: Any) -> tuple[str, list[object]]:
    """What was asked (click, stored or nothing), and one prediction for each task.

    Raises:
        MaskloopError: the request means nothing, or its task has no image to be had.
    """
    question = read_question(body)
    if not question.asked:
        return "stored", list[object](stored_answers(services, question))
    if question.gesture is None:
        return "nothing", [{"result": []} for _ in question.tasks]
    return "click", [answer_click(services, question)]
