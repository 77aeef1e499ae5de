"""Finds the region that a click means: its session's, one that it repairs, or a new one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from backend.click.decoding import Decoder
from backend.click.history import History
from backend.click.scene import Scene
from backend.request.hints import read_hints
from backend.request.prompts import Mark, covers
from backend.request.question import Gesture
from backend.request.session import (
    DRAFT_DELAY,
    OpenRegion,
    Reply,
    new_region_id,
    newest_by_region,
    same_object,
    same_session,
)
from model.masks import Mask, resized
from model.network.prediction import Prediction
from pipeline.labelstudio.regions import label_of
from pipeline.record.tables import now

DRAWN = ("polygon", "scribble")  # kinds of marks that come from the draft
LONGEST_ID = 64  # characters of a region's id that the log can hold
MOST_REGIONS = 30  # regions of a task that the first mark of a session is compared with


@dataclass(frozen=True, slots=True, eq=False)
class Meant:
    """What a request means.

    Attributes:
        region: the region that the request continues.
        marks: the marks of this request for that region, hints included.
        answer: the model's answer to ``all_marks`` without a previous mask, if it was needed to
            find the region; else None.
    """

    region: OpenRegion
    marks: tuple[Mark, ...]
    answer: Prediction | None = None

    @property
    def all_marks(self) -> tuple[Mark, ...]:
        """The marks that the region already had, then those of this request."""
        return (*self.region.carried, *self.marks)


def find_region(
    scene: Scene,
    history: History,
    decoder: Decoder,
    gesture: Gesture,
    marks: tuple[Mark, ...],
    *,
    waited: bool,
) -> Meant | None:
    """Find the region that a request means; None if its marks only take away and no region exists.

    Args:
        marks: the marks of the gesture, in pixels.
        waited: whether the draft with the newest mark was waited for, so that the page's state is
            known.

    Raises:
        SupersededError, PromptError: as ``Decoder.decode``.
    """
    known = same_session(scene.log, marks)
    labelled = gesture.label is not None and gesture.label not in scene.config.waiting_labels
    label = str(gesture.label) if labelled else _unsaid_label(scene, known, marks)
    if label not in scene.config.labels:
        return _taken_away_from(scene, marks)
    region_id = None if known is None else known.region_id
    hints = tuple(_hints(scene, history, marks, region_id, waited))
    if known is not None:
        region = OpenRegion(known.region_id, label, _carried(scene, known, marks))
        answer = None
    else:
        wanted = label if labelled else None
        possible = _possible(scene, history, wanted, by_hand=waited)
        new = OpenRegion(new_region_id(scene.project_id, scene.view.id, label, marks[0]), label)
        region, answer = _region_meant(scene, decoder, new, possible, marks, hints)
    used = {mark.id for mark in region.carried}
    own = tuple(mark for mark in (*hints, *marks) if mark.id not in used)
    meant = Meant(region, own, answer)
    asked = (*hints, *marks)
    return meant if meant.all_marks == asked else replace(meant, answer=None)


def _taken_away_from(scene: Scene, marks: tuple[Mark, ...]) -> Meant | None:
    """What clicks mean whose label no mask can carry, such as "Background".

    They mark what is not the object. Label Studio sends such clicks without other clicks, so they
    are taken to mean the region that was answered last.
    """
    marks = tuple(replace(mark, positive=False) for mark in marks if mark.kind == "click")
    known = same_session(scene.log, marks) if marks else None
    if known is not None:
        carried = _carried(scene, known, marks)
        return Meant(OpenRegion(known.region_id, known.label, carried), marks)
    if not scene.log or not marks:
        return None
    last = scene.log[0]
    return Meant(OpenRegion(last.region_id, last.label, (*last.carried, *last.own)), marks)


def _carried(scene: Scene, known: Reply, marks: tuple[Mark, ...]) -> tuple[Mark, ...]:
    """The marks that a region has besides those of this request.

    These are the marks that were accepted before its session, and marks of kinds that Label Studio
    does not send together with those of this request. If the draft is as new as this request, marks
    that are no longer in it were deleted and are left out.
    """
    newest = next(reply for reply in scene.log if reply.region_id == known.region_id)
    sent = {(mark.kind, mark.group) for mark in marks}
    again = {mark.id for mark in marks}  # Their kind or label may have changed.
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
    """The id of a mark's region on the page.

    Each stroke of a brush region is a mark until the region is submitted; then the whole region is
    one mark. Each wording of a text box is a mark.
    """
    return mark_id.partition("/")[0]


def _unsaid_label(scene: Scene, known: Reply | None, marks: tuple[Mark, ...]) -> str:
    """The label of a region whose marks name none: words, and clicks that read a drawing."""
    if known is not None:
        return known.label
    said = {(mark.text or "").casefold() for mark in marks}
    named = [label for label in scene.config.labels if label.casefold() in said]
    last = scene.log[0].label if scene.log else None
    fallback = last if last in scene.config.labels else scene.config.labels[0]
    return named[0] if named else fallback


def _hints(
    scene: Scene,
    history: History,
    marks: tuple[Mark, ...],
    region_id: str | None,
    waited: bool,
) -> Iterator[Mark]:
    """The hints for this region: drawings and words that no other region has used.

    Drawings stay on the page after their mask is accepted or rejected, so a hint that another
    region has used does not count again. There is one exception. When the annotator asks for a
    drawing, a hint counts if no region that has used it is on the page any more: its mask was
    rejected, and the drawing may be tried again.
    """
    hints = read_hints(scene.view, scene.config, scene.image.height, scene.image.width)
    if not hints:
        return
    asked = {mark.id for mark in marks}
    used: dict[str, set[str]] = {}
    for name, owners in history.uses().items():
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
    decoder: Decoder,
    new: OpenRegion,
    possible: Sequence[PossibleRegion],
    marks: tuple[Mark, ...],
    hints: tuple[Mark, ...],
) -> tuple[OpenRegion, Prediction | None]:
    """The region that the first marks of a session mean: one that they repair, else ``new``.

    The second value is the model's answer to the marks, if it was needed to decide.

    With Auto-Accept on, Label Studio accepts each answer at once and sends each click alone, and it
    never sends clicks and boxes together. So a mark on an object that already has a mask repairs
    that mask: Label Studio replaces a region in place when an answer has the same id. The draft
    shows whether the mask was accepted. Until the draft is saved, the mask may as well have been
    rejected, so then only the id is kept and the earlier marks are not.
    """
    if not possible:
        return new, None
    if not any(mark.positive for mark in marks):
        for each in possible:
            if each.kept and covers(each.mask, marks[-1], *scene.size):
                return each.region, None
        recent = [each for each in possible if not each.kept]
        under = (each.region for each in recent if covers(each.mask, marks[-1], *scene.size))
        return next(under, new), None
    answer = decoder.decode((*hints, *marks), None)
    fresh = answer.probability > scene.model.config.threshold
    for each in possible:
        known = resized(each.mask, fresh.shape)
        under_click = covers(known, marks[-1], *scene.size)
        # A region that was painted around the click is meant, unless there are hints.
        meant = each.by_hand and not hints and covers(_filled(known), marks[-1], *scene.size)
        if meant or same_object(fresh, known, under=under_click):
            return (each.region if each.kept else replace(each.region, carried=())), answer
    return new, answer


def _filled(mask: Mask) -> Mask:
    """The mask with its holes filled, so that the inside of a painted ring belongs to it."""
    values = np.ascontiguousarray(mask).view(np.uint8)
    rings, _ = cv2.findContours(values, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    canvas = np.zeros_like(values)
    cv2.drawContours(canvas, rings, -1, 1, cv2.FILLED)
    return canvas.astype(np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class PossibleRegion:
    """A region that a session's first marks may mean.

    Attributes:
        mask: bool [h, w], at any resolution of the image.
        kept: whether it is known to be on the page, as a region or as marks that wait for the tick.
        by_hand: whether an annotator painted it and now asks the model to continue from it.
    """

    region: OpenRegion
    mask: Mask
    kept: bool
    by_hand: bool = False


def _possible(
    scene: Scene, history: History, label: str | None, *, by_hand: bool
) -> list[PossibleRegion]:
    """The regions on this image that a mark may repair, of one label or, with None, of any.

    Regions that are known to be on the page come first; among them, and among the others, newer
    ones come first. Regions painted by hand are included only if ``by_hand``.
    """
    threshold = scene.model.config.threshold
    kept: list[PossibleRegion] = []
    recent: list[PossibleRegion] = []
    answered = newest_by_region(scene.log, label)
    for reply in answered[:MOST_REGIONS]:
        on_page = reply.region_id in scene.view.kept or any(
            _on_page(mark.id) in scene.view.kept for mark in reply.own if mark.kind not in DRAWN
        )
        if on_page or now() - reply.at < DRAFT_DELAY:
            region = OpenRegion(reply.region_id, reply.label, (*reply.carried, *reply.own))
            mask = history.probability(reply) > threshold
            (kept if on_page else recent).append(PossibleRegion(region, mask, on_page))
    # Regions on the page that the log does not have, such as proposals. Those with a score came
    # from a model; those without were painted by hand and count only if ``by_hand``.
    known = {reply.region_id for reply in answered}
    for region_id, shown in list(scene.view.kept.items())[: -MOST_REGIONS - 1 : -1]:
        scored = "score" in shown
        ours = shown.get("from_name") == scene.config.output_tag and (scored or by_hand)
        named = label_of(shown)
        fits = named == label if label is not None else named in scene.config.labels
        if ours and region_id not in known and len(region_id) <= LONGEST_ID and fits:
            drawn = history.shown(region_id)
            if drawn is not None and drawn.any():
                region = OpenRegion(region_id, str(named))
                kept.append(PossibleRegion(region, drawn, True, by_hand=not scored))
    return kept + recent
