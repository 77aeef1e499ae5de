"""One click, from Label Studio's request to the region it draws. Start reading at ``_answer``."""

from __future__ import annotations

import logging
import time

from sqlalchemy.exc import DBAPIError

from backend.click.decoding import Decoder
from backend.click.history import History
from backend.click.notice import (
    FOREIGN,
    NO_DRAWING,
    NOT_LOGGED,
    NOT_SAVED,
    NOTHING_FOUND,
    NOTHING_TO_TAKE,
    SMOOTHED,
    notice_region,
    sentence,
)
from backend.click.region_match import Meant, find_region
from backend.click.reply import ShapedMask, prediction_json, reply_region, shape_reply
from backend.click.scene import Scene, set_scene
from backend.process.services import Services
from backend.process.supersede import SupersededError, Turn
from backend.request.drafts import wait_for_draft
from backend.request.question import Gesture, Question
from backend.request.session import OpenRegion, Reply, exact, previous
from model.errors import MaskloopError
from model.network.prediction import Prediction
from model.network.text import WORDLESS
from pipeline.labelstudio.types import PredictionJson
from pipeline.masks.coded import CodedMask
from pipeline.masks.ops import probability_to_png
from pipeline.record.tables import Interaction

log = logging.getLogger(__name__)


def answer_click(services: Services, question: Question) -> PredictionJson:
    """Answer a click with at most one region, logged before it is returned, and with a notice.

    When a newer click of the same annotator arrives, the rest of the work is skipped and the
    prediction is empty, because Label Studio's page would drop it anyway.

    Raises:
        LabelConfigError: the project's labelling config lacks what masks need.
        UnknownRecordError, ImageSourceError, ImageError: the task's image cannot be read.
        PromptError: the marks make no prompt that the model can answer.

    Only LabelConfigError is raised where the labelling config has a place for notices: there every
    other error becomes a notice to the annotator.
    """
    began = time.perf_counter()
    gesture = question.gesture
    if gesture is None or len(question.tasks) != 1:
        return {"result": []}
    config = question.config
    turn = services.latest.enter((question.project_id, question.tasks[0].id, gesture.marks[0].id))
    prediction: PredictionJson
    try:
        prediction, notice = _answer(services, question, gesture, turn, began)
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
    services: Services, question: Question, gesture: Gesture, turn: Turn, began: float
) -> tuple[PredictionJson, str]:
    """The prediction, and what to tell the annotator."""
    view, waited = question.tasks[0], False
    waits = gesture.label in question.config.waiting_labels
    if waits:
        saved = wait_for_draft(services, view, gesture.marks[-1].id, turn)
        view, waited = saved or view, saved is not None
    turn.check()
    scene = set_scene(services, question, view, turn)
    history, decoder = History(services, scene), Decoder(services, scene, turn)
    marks = gesture.on_image(*scene.size, config=scene.config)
    if not scene.knows_words and all(mark.kind == "text" for mark in marks):
        return {"result": []}, WORDLESS
    meant = find_region(scene, history, decoder, gesture, marks, waited=waited)
    if meant is None:
        return {"result": []}, FOREIGN
    notice = NO_DRAWING if waited else NOT_SAVED if waits else ""
    if len(meant.marks) > len(gesture.marks):
        notice = ""
    repeated = exact(scene.log, meant.region, meant.marks, scene.version.id)
    if repeated is not None:
        return _send_again(services, scene, history, repeated, gesture.rotation), notice
    before = previous(scene.log, meant.all_marks)
    if before is None and meant.region.region_id in scene.view.kept:
        notice = ""  # The mask that was painted by hand is the drawing to read.
    mask = history.previous_mask(meant.region, before)
    if mask is None and not any(mark.positive for mark in meant.all_marks):
        return {"result": []}, NOTHING_TO_TAKE
    prediction = meant.answer if mask is None else None
    if prediction is None:
        prediction = decoder.decode(meant.all_marks, mask)
    limit = services.settings.backend.max_reply_bytes
    shaped = shape_reply(prediction.mask(), meant.all_marks, limit)
    _count(services, meant, shaped)
    logged = _log(services, scene, meant, prediction, shaped, time.perf_counter() - began)
    if shaped.empty or shaped.smoothed:
        notice = NOTHING_FOUND if shaped.empty else SMOOTHED
    if not logged:
        notice = NOT_LOGGED
    shown = None if shaped.empty else shaped.coded
    rotation = gesture.rotation
    return _prediction(services, scene, meant.region, shown, prediction.score, rotation), notice


def _log(
    services: Services,
    scene: Scene,
    meant: Meant,
    prediction: Prediction,
    shaped: ShapedMask,
    seconds: float,
) -> bool:
    """Write the reply to the log; returns whether the database took it.

    A full disc must not take the mask away from the annotator, who can go on without the log.
    """
    prompts = [mark.to_json(carried=True) for mark in meant.region.carried]
    prompts += [mark.to_json() for mark in meant.marks]
    row = Interaction(
        task_id=scene.task.id,
        image_id=scene.image.id,
        region_id=meant.region.region_id,
        label=meant.region.label,
        prompts=prompts,
        model_version_id=scene.version.id,
        probability=probability_to_png(prediction.probability),
        rle=shaped.coded.rle,
        score=0.0 if shaped.empty else prediction.score,
        milliseconds=1000 * seconds,
    )
    try:
        with services.runtime.sessions.begin() as session:
            session.add(row)
    except DBAPIError as error:
        services.metrics.unlogged.inc()
        log.error("A click is answered but not logged: %s", error.orig)
        return False
    return True


def _send_again(
    services: Services, scene: Scene, history: History, reply: Reply, rotation: int
) -> PredictionJson:
    row = history.row(reply)
    mask = None if row.score <= 0 else CodedMask.of_rle(row.rle, *scene.size)
    return _prediction(services, scene, reply, mask, row.score, rotation)


def _prediction(
    services: Services,
    scene: Scene,
    region: OpenRegion | Reply,
    mask: CodedMask | None,
    score: float,
    rotation: int,
) -> PredictionJson:
    if mask is None:
        return prediction_json(scene.version.name, None)
    tolerance = services.settings.label_studio.outline_tolerance
    shown = reply_region(
        scene.config, region, mask, score=score, rotation=rotation, tolerance=tolerance
    )
    return prediction_json(scene.version.name, shown)


def _count(services: Services, meant: Meant, shaped: ShapedMask) -> None:
    last = meant.all_marks[-1]
    sign = "positive" if last.positive else "negative"
    services.metrics.marks.labels(kind=last.kind, sign=sign).inc()
    if shaped.smoothed:
        services.metrics.smoothed.inc()
