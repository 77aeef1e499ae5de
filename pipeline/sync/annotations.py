"""One annotation of Label Studio into rows: its accepted masks, its state, its task's state.

Only regions that are masks count. Prompts, empty masks and skipped annotations never do.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import cv2
import numpy as np
from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session, sessionmaker

from model.errors import ImageError
from model.masks import Mask
from pipeline.errors import ImageSourceError, RleError
from pipeline.images.catalog import Source, task_image
from pipeline.labelstudio.client import Json
from pipeline.labelstudio.config import LabelConfig
from pipeline.labelstudio.regions import label_of, mask_of
from pipeline.masks.ops import to_png
from pipeline.record.engine import lock
from pipeline.record.tables import Annotation, Image, Region, Round, RoundItem, Task, now
from pipeline.settings import Settings
from pipeline.storage.store import Store
from pipeline.sync.effort import record_effort

log = logging.getLogger(__name__)

PROMPT_TYPES = ("keypointlabels", "rectanglelabels")


@dataclass(frozen=True)
class AcceptedMask:
    """A region of mask kind as Label Studio holds it; bool [H, W] at the region's own size."""

    region_id: str
    label: str
    mask: Mask


@dataclass(frozen=True)
class Applied:
    """What came of one annotation. ``problems`` name regions that could not be read."""

    changed: bool
    regions: int
    prompts_only: bool
    problems: tuple[str, ...] = ()


def accepted_masks(
    annotation: Json, config: LabelConfig | None = None
) -> tuple[list[AcceptedMask], tuple[str, ...]]:
    """The masks of an annotation that count, and a sentence for each region that is damaged.

    Args:
        config: of the project; what was drawn as a hint by it does not count.
    """
    if annotation.get("was_cancelled"):
        return [], ()
    masks: dict[str, AcceptedMask] = {}
    problems = []
    for place, region in enumerate(annotation.get("result") or []):
        region_id = str(region.get("id") or f"#{place}")  # one made through the API may lack it
        if config is not None and _asks(region, config):
            continue
        try:
            mask = mask_of(region)
        except (RleError, ImageError) as error:
            problems.append(f"Region {region_id}: {error}")
            continue
        if mask is not None and mask.any():
            masks[region_id] = AcceptedMask(region_id, label_of(region) or "", mask)
    return list(masks.values()), tuple(problems)


def apply_annotation(
    sessions: sessionmaker[Session],
    store: Store,
    source: Source,
    settings: Settings,
    task_id: int,
    annotation: Json,
    config: LabelConfig | None = None,
) -> Applied:
    """Make our rows equal to one annotation as Label Studio's API shows it now.

    An older state than the one we have is ignored, and the same state changes nothing, so the
    same news may come twice, late, or from two workers at once. The image is fetched before the
    one transaction that writes.

    Args:
        task_id: of a row.
        config: as for ``accepted_masks``.

    Raises:
        ImageSourceError, ImageError, EmbeddingStoreError: it holds masks, and its image cannot be
            had, or is no longer the task's now that it is here; nothing was written but
            ``task.problem``.
    """
    with sessions() as session:
        task = session.get_one(Task, task_id)
        if _have(session, task, annotation):
            return Applied(changed=False, regions=0, prompts_only=False)
    masks, problems = accepted_masks(annotation, config)
    image = task_image(sessions, store, source, task, settings) if masks else None
    with sessions.begin() as session:
        lock(session, f"annotation {annotation['id']}")
        shown = session.get_one(Task, task_id)
        if _have(session, shown, annotation):  # another worker was quicker
            return Applied(changed=False, regions=0, prompts_only=False)
        if image is not None and shown.url != task.url:
            raise ImageSourceError(
                f"The address of the image of task {task.ls_task_id} changed while its image was "
                "fetched; its annotation is looked at again at the next reconcile."
            )
        row = _write(session, shown, annotation, image, masks, config)
    if row.prompts_only:
        log.warning(
            "annotation %d of task %d holds prompts and no mask: its suggestion was not accepted "
            "with the tick before it was submitted",
            row.ls_annotation_id,
            task.ls_task_id,
        )
    return Applied(True, len(masks), row.prompts_only, problems)


def _write(
    session: Session,
    task: Task,
    annotation: Json,
    image: Image | None,
    masks: list[AcceptedMask],
    config: LabelConfig | None,
) -> Annotation:
    """The row of an annotation with its regions, made or brought up to date."""
    row = session.scalars(_row_of(annotation["id"])).one_or_none()
    if row is None:
        row = Annotation(ls_annotation_id=annotation["id"], task_id=task.id)
        session.add(row)
    row.annotator = _annotator(annotation)
    row.lead_time = annotation.get("lead_time")
    row.was_cancelled = bool(annotation.get("was_cancelled"))
    row.deleted = False
    row.prompts_only = not masks and not row.was_cancelled and _has_prompts(annotation, config)
    row.ls_updated_at = _updated_at(annotation)
    row.seen_at = now()
    session.flush()
    _replace_regions(session, task, row, image, masks)
    set_status(session, task)
    return row


def remove_annotations(session: Session, ls_annotation_ids: Collection[int]) -> int:
    """Annotations deleted in Label Studio: their regions go; returns how many we knew."""
    rows = session.scalars(
        select(Annotation).where(
            Annotation.ls_annotation_id.in_(ls_annotation_ids), Annotation.deleted.is_(False)
        )
    ).all()
    for row in rows:
        row.deleted = True
        row.seen_at = now()
        session.execute(delete(Region).where(Region.annotation_id == row.id))
    session.flush()
    for task_id in {row.task_id for row in rows}:
        set_status(session, session.get_one(Task, task_id))
    return len(rows)


def remove_tasks(session: Session, tasks: Sequence[Task]) -> int:
    """Tasks deleted in Label Studio: their annotations go with them; returns how many were new."""
    gone = [task for task in tasks if task.status != "deleted"]
    for task in gone:
        ids = session.scalars(
            select(Annotation.ls_annotation_id).where(Annotation.task_id == task.id)
        ).all()
        remove_annotations(session, ids)
        task.status = "deleted"
    session.flush()
    return len(gone)


def set_status(session: Session, task: Task) -> None:
    """Say of a task what its annotations say. One that left Label Studio stays deleted."""
    if task.status == "deleted":
        return
    live = session.execute(
        select(Annotation.was_cancelled, Annotation.prompts_only).where(
            Annotation.task_id == task.id, Annotation.deleted.is_(False)
        )
    ).all()
    if any(not cancelled and not prompts_only for cancelled, prompts_only in live):
        task.status = "accepted"
    elif any(cancelled for cancelled, _ in live):
        task.status = "skipped"
    else:
        newest = select(func.max(Round.id)).where(Round.ls_project_id == task.ls_project_id)
        in_round = select(RoundItem.id).where(
            RoundItem.task_id == task.id, RoundItem.round_id == newest.scalar_subquery()
        )
        task.status = "pool" if session.scalar(in_round) is None else "queued"


def _row_of(ls_annotation_id: int) -> Select[Annotation]:
    return select(Annotation).where(Annotation.ls_annotation_id == ls_annotation_id)


def _have(session: Session, task: Task, annotation: Json) -> bool:
    """Whether our rows hold this state of the annotation already, or a newer one."""
    row = session.scalars(
        _row_of(annotation["id"]).execution_options(populate_existing=True)
    ).first()
    if row is None or row.ls_updated_at < _updated_at(annotation):
        return False
    if row.ls_updated_at > _updated_at(annotation):
        return True
    # The same state again: only to be redone when it came back, or the task shows another image.
    elsewhere = select(Region.id).where(
        Region.annotation_id == row.id, Region.image_id.is_distinct_from(task.image_id)
    )
    return not row.deleted and session.scalar(elsewhere.limit(1)) is None


def _replace_regions(
    session: Session, task: Task, row: Annotation, image: Image | None, masks: list[AcceptedMask]
) -> None:
    """Make the regions of an annotation exactly these; one that stays keeps its row."""
    known = {
        region.ls_region_id: region
        for region in session.scalars(select(Region).where(Region.annotation_id == row.id))
    }
    for gone in known.keys() - {accepted.region_id for accepted in masks}:
        session.delete(known[gone])
    if image is None:
        return
    for accepted in masks:
        mask = _fit(accepted.mask, image)
        region = known.get(accepted.region_id)
        if region is None:
            region = Region(annotation_id=row.id, ls_region_id=accepted.region_id)
            session.add(region)
        region.image_id = image.id
        region.label = accepted.label
        region.mask = to_png(mask)
        region.area = int(np.count_nonzero(mask))
        session.flush()
        record_effort(session, task.id, region, mask)


def _fit(mask: Mask, image: Image) -> Mask:
    """The mask at the image's upright size; made through the API, it may have another."""
    if mask.shape == (image.height, image.width):
        return mask
    size = (image.width, image.height)
    resized = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, dtype=np.bool_)


def _has_prompts(annotation: Json, config: LabelConfig | None) -> bool:
    return any(
        region.get("type") in PROMPT_TYPES or (config is not None and _asks(region, config))
        for region in annotation.get("result") or []
    )


def _asks(region: Json, config: LabelConfig) -> bool:
    """Whether a region is words or a hint for the model, and no mask."""
    tag = region.get("from_name")
    return tag is not None and (tag == config.text_tag or tag in config.hint_tags)


def _annotator(annotation: Json) -> str | None:
    # "First Last address@host, 7": the name and the account's number.
    name = str(annotation.get("created_username") or "").rpartition(",")[0].strip()
    return name or None


def _updated_at(annotation: Json) -> datetime:
    return datetime.fromisoformat(annotation["updated_at"])
