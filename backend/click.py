"""One click, from Label Studio's request to the region it draws."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.context import Gesture, Mark, Question, TaskView, covers, prompt_of
from backend.reply import Sent, shape_reply
from backend.services import Services
from backend.session import (
    DRAFT_DELAY,
    Probability,
    Reply,
    Thread,
    exact,
    new_region_id,
    newest_by_region,
    previous,
    replies,
    same_object,
    same_session,
)
from model.embedding import Embedding
from model.errors import MaskloopError
from model.segnext import Prediction, SegNext
from pipeline.catalog import task_image, task_row
from pipeline.label_config import LabelConfig, read_label_config
from pipeline.masks import probability_from_png, probability_to_png
from pipeline.regions import brush_region, label_of, mask_of
from pipeline.tables import Image, Interaction, ModelVersion, Task, now

MOST_REGIONS = 20  # of a task that a lone click is compared with


@dataclass(frozen=True, eq=False)
class Scene:
    """All that is known when a click comes in."""

    services: Services
    config: LabelConfig
    project_id: int
    view: TaskView
    task: Task
    image: Image
    version: ModelVersion
    model: SegNext
    embedding: Embedding
    log: list[Reply]

    def decode(self, marks: Sequence[Mark], mask: Probability | None) -> Prediction:
        with self.services.decoding:
            return self.model.decode(self.embedding, prompt_of(marks, mask))

    def probability(self, reply: Reply) -> Probability:
        """What the model answered then; the annotator's own edit of it where the draft has one."""
        with self.services.sessions() as database:
            row = database.get_one(Interaction, reply.id)
        kept = self.view.kept.get(reply.region_id)
        value = kept.get("value") if kept is not None else None
        if isinstance(value, Mapping) and value.get("rle") != list(row.rle):
            edited = drawn(kept)
            if edited is not None:
                return edited
        return probability_from_png(row.probability)


def answer_click(services: Services, question: Question) -> dict[str, Any]:
    """One prediction with at most one region, logged before it is returned.

    Raises:
        LabelConfigError: the project's labelling config lacks what masks need.
        UnknownRecordError, ImageSourceError, ImageError: the task has no image to be had.
        PromptError: the clicks mean nothing.
    """
    began = time.perf_counter()
    gesture = question.gesture
    if gesture is None or len(question.tasks) != 1:
        return {"result": []}
    config = read_label_config(question.label_config)
    scene = _set_scene(services, question, config)
    marks = tuple(mark.on_image(scene.image.height, scene.image.width) for mark in gesture.marks)
    found = _find_thread(scene, gesture, marks)
    if found is None:
        return {"result": []}
    thread, own = found
    repeated = exact(scene.log, thread, own, scene.version.id)
    if repeated is not None:
        return _send_again(scene, repeated, gesture.rotation)
    marks = (*thread.carried, *own)
    before = previous(scene.log, marks)
    prediction = scene.decode(marks, _previous_mask(scene, thread, before))
    sent = shape_reply(prediction.mask(), marks, services.settings.backend.max_reply_bytes)
    _count(services, own, sent)
    _log(scene, thread, own, prediction, sent, time.perf_counter() - began)
    return _prediction(scene, thread, sent.rle, sent.empty, prediction.score, gesture.rotation)


def drawn(region: Any) -> Probability | None:
    """A region of a draft as probabilities of 0 and 1; None when it is no readable mask."""
    try:
        mask = mask_of(region)
    except MaskloopError:  # somebody else's damage must not cost this click its answer
        return None
    return None if mask is None else mask.astype(np.float32)


def _set_scene(services: Services, question: Question, config: LabelConfig) -> Scene:
    view = question.tasks[0]
    url = view.url(config.image_field)
    with services.sessions.begin() as database:
        task_id = task_row(database, question.project_id, view.id, url).id
    # A second transaction, which only reads until the image is here: nobody waits for a download.
    with services.sessions.begin() as database:
        task = database.get_one(Task, task_id)
        image = task_image(database, services.store, services.source, task, services.settings)
    version, model = services.serving.current()
    with services.metrics.embedding_seconds.time():
        embedding = services.embeddings.get(image.id, model)
    with services.sessions() as database:
        log = replies(database, task.id, image.id)
    return Scene(
        services=services,
        config=config,
        project_id=question.project_id,
        view=view,
        task=task,
        image=image,
        version=version,
        model=model,
        embedding=embedding,
        log=log,
    )


def _find_thread(
    scene: Scene, gesture: Gesture, marks: tuple[Mark, ...]
) -> tuple[Thread, tuple[Mark, ...]] | None:
    """The region to go on with, and this request's marks in their meaning for it."""
    label = gesture.label if gesture.label is not None else scene.config.labels[0]
    if label not in scene.config.labels:
        # A label that masks cannot carry, such as "Background", says what is not the object. Label
        # Studio sends such clicks alone; they mean the region that was answered last.
        marks = tuple(replace(mark, positive=False) for mark in marks if mark.kind == "click")
        known = same_session(scene.log, marks) if marks else None
        if known is not None:
            return Thread(known.region_id, known.label, known.carried), marks
        last = scene.log[0] if scene.log and marks else None
        carried = (*last.carried, *last.own) if last else ()
        return (Thread(last.region_id, last.label, carried), marks) if last else None
    known = same_session(scene.log, marks)
    if known is not None:
        return Thread(known.region_id, label, known.carried), marks
    return _region_meant(scene, label, marks), marks


def _region_meant(scene: Scene, label: str, marks: tuple[Mark, ...]) -> Thread:
    """The region a lone first click means: one of ours that it repairs, else a new one.

    With Auto-Accept on, Label Studio accepts each answer at once and sends each click alone. A
    region of the same id is replaced in place, so a click on an object that has its mask repairs
    it. Whether the mask was accepted shows in the draft; until the draft is saved nobody can know
    (the mask may as well have been rejected), so then only the id is kept and its past is not.
    """
    own = Thread(new_region_id(scene.project_id, scene.view.id, label, marks[0]), label)
    candidates = _candidates(scene, label)
    if not candidates:
        return own
    size = scene.image.height, scene.image.width
    if not any(mark.positive for mark in marks):
        for candidate in candidates:
            if candidate.kept and covers(candidate.mask, marks[-1], *size):
                return candidate.thread
        recent = [candidate for candidate in candidates if not candidate.kept]
        return next((c.thread for c in recent if covers(c.mask, marks[-1], *size)), own)
    fresh = scene.decode(marks, None).probability > scene.model.config.threshold
    for candidate in candidates:
        known = _to_shape(candidate.mask, fresh.shape)
        if same_object(fresh, known, under=covers(known, marks[-1], *size)):
            return candidate.thread if candidate.kept else replace(candidate.thread, carried=())
    return own


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A region that a lone click may mean. ``kept``: the draft or an annotation holds it."""

    thread: Thread
    mask: NDArray[np.bool_]
    kept: bool


def _candidates(scene: Scene, label: str) -> list[Candidate]:
    """Our regions of a label on this image, those surely accepted first, the newest first."""
    threshold = scene.model.config.threshold
    kept: list[Candidate] = []
    recent: list[Candidate] = []
    answered = newest_by_region(scene.log, label)
    for reply in answered[:MOST_REGIONS]:
        is_kept = reply.region_id in scene.view.kept
        if is_kept or now() - reply.at < DRAFT_DELAY:
            thread = Thread(reply.region_id, label, (*reply.carried, *reply.own))
            mask = scene.probability(reply) > threshold
            (kept if is_kept else recent).append(Candidate(thread, mask, is_kept))
    # Regions in the draft that the log does not have, such as imported predictions; those with a
    # score came from a model, those without were drawn by hand and are left alone.
    known = {reply.region_id for reply in answered}
    for region_id, region in list(scene.view.kept.items())[: -MOST_REGIONS - 1 : -1]:
        ours = region.get("from_name") == scene.config.brush_tag and "score" in region
        if ours and region_id not in known and label_of(region) == label:
            mask_drawn = drawn(region)
            if mask_drawn is not None:
                kept.append(Candidate(Thread(region_id, label), mask_drawn > threshold, True))
    return kept + recent


def _previous_mask(scene: Scene, thread: Thread, before: Reply | None) -> Probability | None:
    if before is not None:
        return scene.probability(before)
    region = scene.view.kept.get(thread.region_id)  # one that the log does not have
    return drawn(region) if region is not None else None


def _to_shape(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    if mask.shape == shape:
        return mask
    size = (shape[1], shape[0])
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.bool_)


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
                score=prediction.score,
                milliseconds=1000 * seconds,
            )
        )


def _send_again(scene: Scene, reply: Reply, rotation: int) -> dict[str, Any]:
    with scene.services.sessions() as database:
        row = database.get_one(Interaction, reply.id)
    empty = not (probability_from_png(row.probability) > scene.model.config.threshold).any()
    thread = Thread(reply.region_id, reply.label)
    return _prediction(scene, thread, row.rle, empty, row.score, rotation)


def _prediction(
    scene: Scene, thread: Thread, rle: bytes, empty: bool, score: float, rotation: int
) -> dict[str, Any]:
    if empty:
        return {"result": [], "score": 0.0, "model_version": scene.version.name}
    region = brush_region(
        region_id=thread.region_id,
        rle=rle,
        height=scene.image.height,
        width=scene.image.width,
        label=thread.label,
        from_name=scene.config.brush_tag,
        to_name=scene.config.image_tag,
        score=score,
        rotation=rotation,
    )
    return {
        "result": [region],
        "score": region["score"],
        "model_version": scene.version.name,
    }


def _count(services: Services, own: Sequence[Mark], sent: Sent) -> None:
    last = own[-1]
    sign = "positive" if last.positive else "negative"
    services.metrics.marks.labels(kind=last.kind, sign=sign).inc()
    if sent.smoothed:
        services.metrics.smoothed.inc()
