"""One click, from Label Studio's request to the region it draws."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backend.click.drafts import wait_for_draft
from backend.click.prompts import Mark
from backend.click.region_match import find_thread
from backend.click.reply import Sent, shape_reply
from backend.click.request import Gesture, Question
from backend.click.scene import Scene, set_scene
from backend.click.session import Probability, Reply, Thread, exact, previous
from backend.http.notice import (
    FOREIGN,
    NO_DRAWING,
    NOT_SAVED,
    NOTHING_FOUND,
    NOTHING_TO_TAKE,
    SMOOTHED,
    notice_region,
    sentence,
)
from backend.tasks.network import SupersededError
from backend.tasks.services import Services
from model.errors import MaskloopError
from model.network.prediction import Prediction
from model.network.text import WORDLESS
from pipeline.labelstudio.config import LabelConfig, read_label_config
from pipeline.masks.ops import probability_to_png
from pipeline.record.tables import Interaction

log = logging.getLogger(__name__)


def answer_click(services: Services, question: Question) -> dict[str, Any]:
    """One prediction with at most one region, logged before it is returned, and a notice.

    Of a request that a newer click of the same annotator has taken the place of, the rest is not
    done and the prediction is empty: Label Studio's page would drop it.

    Raises, where the labelling config has no place to say it in:
        UnknownRecordError, ImageSourceError, ImageError: the task has no image to be had.
        PromptError: the clicks mean nothing.

    Raises:
        LabelConfigError: the project's labelling config lacks what masks need.
    """
    began = time.perf_counter()
    gesture = question.gesture
    if gesture is None or len(question.tasks) != 1:
        return {"result": []}
    config = read_label_config(question.label_config)
    session = question.project_id, question.tasks[0].id, gesture.marks[0].id
    stale = services.latest.enter(session)
    try:
        prediction, notice = _answer(services, question, gesture, config, stale, began)
    except SupersededError:
        services.metrics.superseded.inc()
        return {"result": []}
    except Exception as error:
        if config.notice_tag is None:
            raise
        kind = type(error).__name__
        services.metrics.errors.labels(route="/predict", kind=kind).inc()
        ours = isinstance(error, MaskloopError)
        log.warning("A click got a notice: %s", error, exc_info=None if ours else error)
        prediction, notice = {"result": []}, sentence(error)
    prediction["result"] = [*prediction["result"], *notice_region(config, notice)]
    return prediction


def _answer(
    services: Services,
    question: Question,
    gesture: Gesture,
    config: LabelConfig,
    stale: Callable[[], bool],
    began: float,
) -> tuple[dict[str, Any], str]:
    """The prediction, and what to tell the annotator."""
    view, waited = question.tasks[0], False
    waits = gesture.label in config.waiting_labels
    if waits:
        saved = wait_for_draft(services, view, gesture.marks[-1].id, stale)
        view, waited = saved or view, saved is not None
    if stale():
        raise SupersededError
    scene = set_scene(services, question, view, config, stale)
    height, width = scene.image.height, scene.image.width
    group = gesture.label if gesture.label not in config.labels else None
    marks = tuple(
        replace(mark.on_image(height, width), group=group or "") for mark in gesture.marks
    )
    if not scene.knows_words and all(mark.kind == "text" for mark in marks):
        return {"result": []}, WORDLESS
    found = find_thread(scene, gesture, marks, waited)
    if found is None:
        return {"result": []}, FOREIGN
    thread, own = found
    notice = NO_DRAWING if waited else NOT_SAVED if waits else ""
    if len(own) > len(gesture.marks):
        notice = ""
    repeated = exact(scene.log, thread, own, scene.version.id)
    if repeated is not None:
        return _send_again(scene, repeated, gesture.rotation), notice
    marks = (*thread.carried, *own)
    before = previous(scene.log, marks)
    if before is None and thread.region_id in scene.view.kept:
        notice = ""  # what was painted by hand is the drawing
    mask = _previous_mask(scene, thread, before)
    if mask is None and not any(mark.positive for mark in marks):
        return {"result": []}, NOTHING_TO_TAKE
    prediction = scene.decode(marks, mask)
    sent = shape_reply(prediction.mask(), marks, services.settings.backend.max_reply_bytes)
    _count(services, marks[-1], sent)
    _log(scene, thread, own, prediction, sent, time.perf_counter() - began)
    if sent.empty or sent.smoothed:
        notice = NOTHING_FOUND if sent.empty else SMOOTHED
    answer = _prediction(scene, thread, sent.rle, sent.empty, prediction.score, gesture.rotation)
    return answer, notice


def _previous_mask(scene: Scene, thread: Thread, before: Reply | None) -> Probability | None:
    if before is not None:
        return scene.probability(before)
    region = scene.view.kept.get(thread.region_id)  # one that the log does not have
    shown = None if region is None else scene.services.drawings.mask(region)
    return None if shown is None else shown.astype(np.float32)


def _log(
    scene: Scene,
    thread: Thread,
    own: Sequence[Mark],
    prediction: Prediction,
    sent: Sent,
    seconds: float,
) -> None:
    prompts = [mark.to_json(carried=True) for mark in thread.carried]
    prompts += [mark.to_json() for mark in own]
    with scene.services.sessions.begin() as database:
        database.add(
            Interaction(
                task_id=scene.task.id,
                image_id=scene.image.id,
                region_id=thread.region_id,
                label=thread.label,
                prompts=prompts,
                model_version_id=scene.version.id,
                probability=probability_to_png(prediction.probability),
                rle=sent.rle,
                score=0.0 if sent.empty else prediction.score,
                milliseconds=1000 * seconds,
            )
        )


def _send_again(scene: Scene, reply: Reply, rotation: int) -> dict[str, Any]:
    with scene.services.sessions() as database:
        row = database.get_one(Interaction, reply.id)
    thread = Thread(reply.region_id, reply.label)
    return _prediction(scene, thread, row.rle, row.score <= 0, row.score, rotation)


def _prediction(
    scene: Scene, thread: Thread, rle: bytes, empty: bool, score: float, rotation: int
) -> dict[str, Any]:
    if empty:
        return {"result": [], "score": 0.0, "model_version": scene.version.name}
    region = scene.region(thread, rle, score, rotation)
    return {
        "result": [region],
        "score": region["score"],
        "model_version": scene.version.name,
    }


def _count(services: Services, last: Mark, sent: Sent) -> None:
    sign = "positive" if last.positive else "negative"
    services.metrics.marks.labels(kind=last.kind, sign=sign).inc()
    if sent.smoothed:
        services.metrics.smoothed.inc()
