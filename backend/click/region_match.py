"""Which region a click means: its session's, one of ours that it repairs, or a new one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from backend.click.hints import read_hints
from backend.click.prompts import Mark, covers
from backend.click.request import Gesture
from backend.click.scene import Scene
from backend.click.session import (
    DRAFT_DELAY,
    Reply,
    Thread,
    new_region_id,
    newest_by_region,
    same_object,
    same_session,
)
from model.masks import resized
from pipeline.labelstudio.regions import label_of
from pipeline.record.tables import now

DRAWN = ("polygon", "scribble")  # kinds that are in the draft
LONGEST_ID = 64  # of a region that the log can hold
MOST_REGIONS = 30  # of a task that a lone click is compared with


def find_thread(
    scene: Scene, gesture: Gesture, marks: tuple[Mark, ...], waited: bool
) -> tuple[Thread, tuple[Mark, ...]] | None:
    """The region to go on with, and all marks of this request in their meaning for it.

    Args:
        marks: of the gesture, in pixels.
        waited: for the draft that has the newest mark, so that the page's state is known.
    """
    known = same_session(scene.log, marks)
    said = gesture.label is not None and gesture.label not in scene.config.waiting_labels
    label = str(gesture.label) if said else _unsaid_label(scene, known, marks)
    if label not in scene.config.labels:
        # A label that masks cannot carry, such as "Background", says what is not the object. Label
        # Studio sends such clicks alone; they mean the region that was answered last.
        marks = tuple(replace(mark, positive=False) for mark in marks if mark.kind == "click")
        known = same_session(scene.log, marks) if marks else None
        if known is not None:
            return Thread(known.region_id, known.label, _carried(scene, known, marks)), marks
        last = scene.log[0] if scene.log and marks else None
        carried = (*last.carried, *last.own) if last else ()
        return (Thread(last.region_id, last.label, carried), marks) if last else None
    region_id = None if known is None else known.region_id
    hints = tuple(_hints(scene, marks, region_id, waited))
    if known is not None:
        thread = Thread(known.region_id, label, _carried(scene, known, marks))
    else:
        thread = _region_meant(scene, label, marks, hints, said=said, waited=waited)
    used = {mark.id for mark in thread.carried}
    return thread, tuple(mark for mark in (*hints, *marks) if mark.id not in used)


def _carried(scene: Scene, known: Reply, marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """What was said of a region besides the marks of this request: what was accepted before its
    session, and marks of the kinds that Label Studio does not send together with these; not those
    that a draft as new as this request shows to be deleted."""
    newest = next(reply for reply in scene.log if reply.region_id == known.region_id)
    sent = {(mark.kind, mark.group) for mark in marks}
    again = {mark.id for mark in marks}  # maybe of another kind or label by now
    others = [
        mark
        for mark in (*newest.carried, *newest.own)
        if (mark.kind, mark.group) not in sent
        and mark.id not in again
        and mark.kind not in DRAWN
        and mark not in known.carried
    ]
    if _on_page(marks[-1].id) in scene.view.kept:
        others = [mark for mark in others if _on_page(mark.id) in scene.view.kept]
    return (*known.carried, *others)


def _on_page(mark_id: str) -> str:
    """The id of the region that a mark is on the page. Of a brush each stroke is a mark, until it
    is submitted and all of it is one; of a text box each wording is."""
    return mark_id.partition("/")[0]


def _unsaid_label(scene: Scene, known: Reply | None, marks: tuple[Mark, ...]) -> str:
    """What to call a region of words, or of clicks that ask for a drawing: they do not say."""
    if known is not None:
        return known.label
    said = {(mark.text or "").casefold() for mark in marks}
    named = [label for label in scene.config.labels if label.casefold() in said]
    last = scene.log[0].label if scene.log else None
    fallback = last if last in scene.config.labels else scene.config.labels[0]
    return named[0] if named else fallback


def _hints(
    scene: Scene, marks: tuple[Mark, ...], region_id: str | None, waited: bool
) -> Iterator[Mark]:
    """What was drawn or written for this region, and for none before it.

    Drawings stay on the page when their mask is accepted or rejected. One that was used for
    another region is spent; but when the annotator asks for it anew, only where that region is
    still there: of a mask that was rejected the drawing may be tried again.
    """
    hints = read_hints(scene.view, scene.config, scene.image.height, scene.image.width)
    if not hints:
        return
    asked = {mark.id for mark in marks}
    used: dict[str, set[str]] = {}
    for name, owners in scene.uses().items():
        used.setdefault(name, set()).update(owners)
        used.setdefault(_on_page(name), set()).update(owners)
    for hint in hints:
        if hint.kind == "text" and not scene.knows_words:
            continue
        owners = used.get(hint.id, set())
        if waited:
            owners = {owner for owner in owners if owner in scene.view.kept}
        if hint.id not in asked and (not owners or region_id in owners):
            yield hint


def _region_meant(
    scene: Scene,
    label: str,
    marks: tuple[Mark, ...],
    hints: tuple[Mark, ...],
    *,
    said: bool,
    waited: bool,
) -> Thread:
    """The region that the first marks of a session mean: one that they repair, else a new one.

    With Auto-Accept on, Label Studio accepts each answer at once and sends each click alone; and
    it never sends clicks and boxes together. A region of the same id is replaced in place, so a
    mark on an object that has its mask repairs it. Whether the mask was accepted shows in the
    draft; until the draft is saved nobody can know (the mask may as well have been rejected), so
    then only the id is kept and its past is not.
    """
    own = Thread(new_region_id(scene.project_id, scene.view.id, label, marks[0]), label)
    candidates = _candidates(scene, label if said else None, by_hand=waited)
    if not candidates:
        return own
    size = scene.image.height, scene.image.width
    if not any(mark.positive for mark in marks):
        for candidate in candidates:
            if candidate.kept and covers(candidate.mask, marks[-1], *size):
                return candidate.thread
        recent = [candidate for candidate in candidates if not candidate.kept]
        return next((c.thread for c in recent if covers(c.mask, marks[-1], *size)), own)
    fresh = scene.decode((*hints, *marks), None).probability > scene.model.config.threshold
    for candidate in candidates:
        known = resized(candidate.mask, fresh.shape)
        under = covers(known, marks[-1], *size)
        # What is painted around the click is meant, unless a hint says what is.
        meant = candidate.by_hand and not hints and covers(_filled(known), marks[-1], *size)
        if meant or same_object(fresh, known, under=under):
            return candidate.thread if candidate.kept else replace(candidate.thread, carried=())
    return own


def _filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without holes: of a ring that was painted, the inside too."""
    values = np.ascontiguousarray(mask).view(np.uint8)
    rings, _ = cv2.findContours(values, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    canvas = np.zeros_like(values)
    cv2.drawContours(canvas, rings, -1, 1, cv2.FILLED)
    return canvas.astype(np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A region that a session's first marks may mean.

    Attributes:
        kept: it is known to be on the page: as a region, or as marks that wait for the tick.
        by_hand: it was painted, by an annotator who now asks to go on from it.
    """

    thread: Thread
    mask: NDArray[np.bool_]
    kept: bool
    by_hand: bool = False


def _candidates(scene: Scene, label: str | None, *, by_hand: bool) -> list[Candidate]:
    """Our regions of a label, or of any, on this image: those surely on the page first, the newest
    first; and those painted by hand, where they are asked for."""
    threshold = scene.model.config.threshold
    kept: list[Candidate] = []
    recent: list[Candidate] = []
    answered = newest_by_region(scene.log, label)
    for reply in answered[:MOST_REGIONS]:
        on_page = reply.region_id in scene.view.kept or any(
            _on_page(mark.id) in scene.view.kept for mark in reply.own if mark.kind not in DRAWN
        )
        if on_page or now() - reply.at < DRAFT_DELAY:
            thread = Thread(reply.region_id, reply.label, (*reply.carried, *reply.own))
            mask = scene.probability(reply) > threshold
            (kept if on_page else recent).append(Candidate(thread, mask, on_page))
    # Regions on the page that the log does not have, such as proposals. Those with a score came
    # from a model; those without were drawn by hand and are left alone until they are meant.
    known = {reply.region_id for reply in answered}
    for region_id, region in list(scene.view.kept.items())[: -MOST_REGIONS - 1 : -1]:
        scored = "score" in region
        ours = region.get("from_name") == scene.config.output_tag and (scored or by_hand)
        named = label_of(region)
        fits = named == label if label is not None else named in scene.config.labels
        if ours and region_id not in known and len(region_id) <= LONGEST_ID and fits:
            shown = scene.services.drawings.mask(region)
            if shown is not None and shown.any():
                thread = Thread(region_id, str(named))
                kept.append(Candidate(thread, shown, True, by_hand=not scored))
    return kept + recent
