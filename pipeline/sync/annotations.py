"""Writes one annotation of Label Studio to our rows: its masks, its state and its task's status.

Only mask regions count. Prompts, empty masks and skipped annotations never do. All slow work, such
as fetching the image and comparing masks, is done before the one transaction that writes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from sqlalchemy.orm import Session

from model.errors import ImageError
from model.masks import Mask, resized
from pipeline.errors import ImageSourceError, RleError
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import label_of, mask_of
from pipeline.labelstudio.types import AnnotationJson, RegionJson
from pipeline.masks.ops import to_png
from pipeline.record import annotation_rows, interactions, regions
from pipeline.record.engine import lock
from pipeline.record.tables import Annotation, Effort, Image, Region, Task, now
from pipeline.record.tables.base import key
from pipeline.runtime import Runtime
from pipeline.sync.effort import effort_of

log = logging.getLogger(__name__)

PROMPT_TYPES = ("keypointlabels", "rectanglelabels")


@dataclass(frozen=True)
class SubmittedMask:
    """A mask region as Label Studio holds it; bool [H, W] at the region's own size."""

    region_id: str
    label: str
    mask: Mask


@dataclass(frozen=True)
class Applied:
    """The result for one annotation. ``problems`` name the regions that could not be read."""

    changed: bool
    regions: int
    prompts_only: bool
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Prepared:
    """A region ready to be written: its mask at the image's size, and its effort."""

    region_id: str
    label: str
    png: bytes
    area: int
    interaction_id: int | None
    effort: Effort | None


UNCHANGED = Applied(changed=False, regions=0, prompts_only=False)


def submitted_masks(
    annotation: AnnotationJson, config: LabelConfig | None = None
) -> tuple[list[SubmittedMask], tuple[str, ...]]:
    """The masks of an annotation that count, and a sentence for each region that is damaged.

    Args:
        config: of the project; regions that it defines as prompts do not count as masks.
    """
    if annotation.get("was_cancelled"):
        return [], ()
    masks: dict[str, SubmittedMask] = {}
    problems = []
    for place, region in enumerate(annotation.get("result") or []):
        region_id = key(str(region.get("id") or f"#{place}"))  # the API allows regions without one
        if config is not None and _asks(region, config):
            continue
        try:
            mask = mask_of(region)
        except (RleError, ImageError) as error:
            problems.append(f"Region {region_id}: {error}")
            continue
        if mask is not None and mask.any():
            masks[region_id] = SubmittedMask(region_id, label_of(region) or "", mask)
    return list(masks.values()), tuple(problems)


def apply_annotation(
    runtime: Runtime,
    task_id: int,
    annotation: AnnotationJson,
    config: LabelConfig | None = None,
) -> Applied:
    """Make our rows equal to one annotation as Label Studio's API shows it now.

    An older state than the one we have is ignored, and the same state changes nothing, so this may
    be called twice, late, or by two workers at once for the same change.

    Args:
        task_id: id of the task's row.
        config: as for ``submitted_masks``.

    Raises:
        ImageSourceError, ImageError, StoreError: it holds masks, but its image cannot be fetched,
            or the task shows another image by then. Only ``task.problem`` was written.
    """
    with runtime.sessions() as session:
        task = session.get_one(Task, task_id)
        if _have(session, task, annotation):
            return UNCHANGED
    masks, problems = submitted_masks(annotation, config)
    image = runtime.catalog.image_of(task) if masks else None
    prepared = _prepare(runtime, task_id, image, masks)
    with runtime.sessions.begin() as session:
        lock(session, f"annotation {annotation['id']}")
        shown = session.get_one(Task, task_id)
        if _have(session, shown, annotation):  # Another worker was faster.
            return UNCHANGED
        if image is not None and shown.url != task.url:
            raise ImageSourceError(
                f"The address of the image of task {task.ls_task_id} changed while its image was "
                "fetched; its annotation is read again at the next reconcile."
            )
        row = _write(session, shown, annotation, image, prepared, config)
    if row.prompts_only:
        log.warning(
            "Annotation %d of task %d holds prompts and no mask: its suggestion was not accepted "
            "with the tick before it was submitted.",
            row.ls_annotation_id,
            task.ls_task_id,
        )
    return Applied(True, len(masks), row.prompts_only, problems)


def _prepare(
    runtime: Runtime, task_id: int, image: Image | None, masks: Sequence[SubmittedMask]
) -> list[_Prepared]:
    """The regions to write, with everything that has to be computed for them."""
    if image is None:
        return []
    with runtime.sessions() as session:
        replies = interactions.of_regions(session, task_id, [each.region_id for each in masks])
    prepared = []
    for each in masks:
        # A mask made through the API may have another size than the image.
        mask = resized(each.mask, (image.height, image.width))
        ours = replies.get(each.region_id, [])
        prepared.append(
            _Prepared(
                region_id=each.region_id,
                label=each.label,
                png=to_png(mask),
                area=int(np.count_nonzero(mask)),
                interaction_id=ours[-1].id if ours else None,
                effort=effort_of(ours, mask),
            )
        )
    return prepared


def _write(
    session: Session,
    task: Task,
    annotation: AnnotationJson,
    image: Image | None,
    prepared: Sequence[_Prepared],
    config: LabelConfig | None,
) -> Annotation:
    """Make or update the row of an annotation and its regions; returns the row."""
    row = annotation_rows.put(session, annotation["id"], task.id)
    row.annotator = _annotator(annotation)
    row.lead_time = annotation.get("lead_time")
    row.was_cancelled = bool(annotation.get("was_cancelled"))
    row.deleted = False
    row.prompts_only = not prepared and not row.was_cancelled and _has_prompts(annotation, config)
    row.ls_updated_at = _updated_at(annotation)
    row.seen_at = now()
    session.flush()
    _replace_regions(session, row, image, prepared)
    annotation_rows.set_status(session, task)
    return row


def _replace_regions(
    session: Session, row: Annotation, image: Image | None, prepared: Sequence[_Prepared]
) -> None:
    """Make these the only regions of an annotation; a region that stays keeps its row."""
    known = regions.of_annotation(session, row.id)
    for gone in known.keys() - {each.region_id for each in prepared}:
        session.delete(known[gone])
    if image is None:
        return
    for each in prepared:
        region = known.get(each.region_id)
        if region is None:
            region = Region(annotation_id=row.id, ls_region_id=each.region_id)
            session.add(region)
        region.image_id = image.id
        region.label = each.label
        region.mask = each.png
        region.area = each.area
        region.interaction_id = each.interaction_id
        session.flush()
        regions.write_effort(session, region, each.effort)


def _have(session: Session, task: Task, annotation: AnnotationJson) -> bool:
    """Whether our rows hold this state of the annotation already, or a newer one."""
    row = annotation_rows.by_ls_id(session, annotation["id"])
    if row is None or row.ls_updated_at < _updated_at(annotation):
        return False
    if row.ls_updated_at > _updated_at(annotation):
        return True
    # The same state is written again only when the annotation had been deleted, or when the task
    # shows another image now.
    return not row.deleted and not regions.any_elsewhere(session, row.id, task.image_id)


def _has_prompts(annotation: AnnotationJson, config: LabelConfig | None) -> bool:
    return any(
        region.get("type") in PROMPT_TYPES or (config is not None and _asks(region, config))
        for region in annotation.get("result") or []
    )


def _asks(region: RegionJson, config: LabelConfig) -> bool:
    """Whether a region is a prompt for the model, such as words, and not a mask."""
    tag = region.get("from_name")
    return tag is not None and (tag == config.text_tag or tag in config.hint_tags)


def _annotator(annotation: AnnotationJson) -> str | None:
    # The value looks like "First Last address@host, 7": the name and the account's number.
    name = str(annotation.get("created_username") or "").rpartition(",")[0].strip()
    return name or None


def _updated_at(annotation: AnnotationJson) -> datetime:
    return datetime.fromisoformat(annotation["updated_at"])
