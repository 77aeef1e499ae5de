"""Which region a click means: its session's, one of ours that it repairs, or a new one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from backend.context import Gesture, Mark, covers
from backend.scene import Scene, drawn
from backend.session import (
    DRAFT_DELAY,
    Thread,
    new_region_id,
    newest_by_region,
    same_object,
    same_session,
)
from pipeline.masks import resized
from pipeline.regions import label_of
from pipeline.tables import now

MOST_REGIONS = 30  # of a task that a lone click is compared with


def find_thread(
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
        known = resized(candidate.mask, fresh.shape)
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
    # Regions on the page that the log does not have, such as proposals; those with a score came
    # from a model, those without were drawn by hand and are left alone.
    known = {reply.region_id for reply in answered}
    for region_id, region in list(scene.view.kept.items())[: -MOST_REGIONS - 1 : -1]:
        ours = region.get("from_name") == scene.config.brush_tag and "score" in region
        if ours and region_id not in known and label_of(region) == label:
            shown = drawn(region)
            if shown is not None:
                kept.append(Candidate(Thread(region_id, label), shown, True))
    return kept + recent
