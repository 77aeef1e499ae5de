"""Updates FiftyOne's dataset from SQL.

SQL is the record and the dataset is a mirror: you may run this as often as you like, and delete
the dataset at any time. A sample changes only when its record changed, so ids stay, and so does
everything that the data team added (tags, fields, their own views).
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.errors import MaskloopError
from model.progress import Progress, silent
from pipeline.images.catalog import image_key
from pipeline.masks.ops import from_png
from pipeline.masks.rle import decode
from pipeline.mirror.connection import connect_fiftyone, fiftyone_folder, mask_folder
from pipeline.mirror.masks import BoxedMask, MaskFolder
from pipeline.mirror.records import ImageRecord, read_records
from pipeline.mirror.schema import open_dataset
from pipeline.mirror.views import compute_likeness, save_views
from pipeline.record import images, interactions
from pipeline.runtime import Runtime
from pipeline.settings import Settings

log = logging.getLogger(__name__)

NEW_AT_ONCE = 500  # samples added in one call


@dataclass(frozen=True)
class MirrorReport:
    """What one run changed. ``left_out`` counts images or masks that could not be read."""

    dataset: str
    samples: int
    added: int
    updated: int
    removed: int
    left_out: int


def mirror(runtime: Runtime, progress: Progress = silent) -> MirrorReport:
    """Update the dataset from SQL. It may run twice, at the same time, or without a dataset.

    Args:
        progress: counts compared images.

    Raises:
        ServiceError: FiftyOne's database does not answer.
    """
    fiftyone = connect_fiftyone(runtime.settings)
    with _one_at_a_time(runtime.settings):
        return _Mirror(fiftyone, runtime, progress).run()


class _Mirror:
    def __init__(self, fiftyone: Any, runtime: Runtime, progress: Progress) -> None:
        self.fiftyone = fiftyone
        self.sessions = runtime.sessions
        self.store = runtime.store
        self.settings = runtime.settings
        self.progress = progress
        self.masks = MaskFolder(mask_folder(self.settings))
        self.dataset = open_dataset(fiftyone, self.settings.fiftyone.dataset)
        self.ls_url = self.settings.label_studio.url.rstrip("/")
        self.left_out = 0

    def run(self) -> MirrorReport:
        rows = zip(*self.dataset.values(["sha256", "id", "record"]), strict=True)
        known = {sha256: (sample_id, digest) for sha256, sample_id, digest in rows}
        with self.sessions() as session:
            ids = images.shown(session)
        added = updated = 0
        seen: set[str] = set()
        fresh: list[Any] = []
        self.progress(0, len(ids))
        for done, record in enumerate(read_records(self.sessions, ids), start=1):
            seen.add(record.image.sha256)
            path = self._path(record)
            sample_id, digest = known.get(record.image.sha256, (None, None))
            if path is not None and sample_id is None:
                sample = self.fiftyone.Sample(filepath=str(path))
                self._fill(sample, record, path)
                fresh.append(sample)
                added += 1
            elif path is not None and digest != self._state(record, path):
                sample = self.dataset[sample_id]
                self._fill(sample, record, path)
                sample.save()
                updated += 1
            if len(fresh) >= NEW_AT_ONCE:
                self._add(fresh)
            self.progress(done, len(ids))
        self._add(fresh)
        gone = [sample_id for sha256, (sample_id, _) in known.items() if sha256 not in seen]
        self.dataset.delete_samples(gone)
        self._forget_masks()
        save_views(self.fiftyone, self.dataset)
        compute_likeness(self.dataset)
        name = self.settings.fiftyone.dataset
        return MirrorReport(name, len(self.dataset), added, updated, len(gone), self.left_out)

    def _add(self, fresh: list[Any]) -> None:
        if fresh:
            self.dataset.add_samples(fresh, progress=False)
            fresh.clear()

    def _path(self, record: ImageRecord) -> Path | None:
        try:
            return self.store.local_path(image_key(record.image))
        except MaskloopError as error:
            self._leave_out(f"image {record.image.id}", error)
            return None

    def _state(self, record: ImageRecord, path: Path) -> str:
        """A text that changes with anything that a sample shows, its addresses included."""
        return f"{record.digest} {path} {self.ls_url}"

    def _fill(self, sample: Any, record: ImageRecord, path: Path) -> None:
        image, task = record.image, record.task
        costs = [mask.effort for mask in record.accepted if mask.effort is not None]
        values = {
            "filepath": str(path),
            "metadata": self.fiftyone.ImageMetadata(width=image.width, height=image.height),
            "sha256": image.sha256,
            "record": self._state(record, path),
            "ls_project_id": task.ls_project_id,
            "ls_task_id": task.ls_task_id,
            "ls_url": f"{self.ls_url}/projects/{task.ls_project_id}/data?task={task.ls_task_id}",
            "status": task.status,
            "split": image.split,
            "round": record.round,
            "round_rank": record.round_rank,
            "reason": record.reason,
            "hardness": task.hardness,
            "score": record.predicted[-1].score if record.predicted else None,
            "n_accepted": len(record.accepted),
            "n_clicks": _total([cost.clicks for cost in costs]),
            "seconds": _total([cost.seconds for cost in costs]),
            "first_iou": _mean([cost.first_iou for cost in costs]),
            "last_iou": _mean([cost.last_iou for cost in costs]),
            "annotators": sorted({m.annotator for m in record.accepted if m.annotator}),
            "accepted": self._accepted(record),
            "prediction": self._predicted(record),
            "embedding": np.frombuffer(record.vector, np.float32) if record.vector else None,
        }
        for name, value in values.items():
            sample[name] = value

    def _accepted(self, record: ImageRecord) -> Any:
        found = []
        for mask in record.accepted:
            region, effort = mask.region, mask.effort
            try:
                boxed = self.masks.put(from_png(region.mask))
            except MaskloopError as error:
                self._leave_out(f"accepted region {region.id}", error)
                continue
            if boxed is not None:
                found.append(
                    self._detection(
                        boxed,
                        label=region.label,
                        ls_region_id=region.ls_region_id,
                        annotator=mask.annotator,
                        clicks=effort and effort.clicks,
                        seconds=effort and effort.seconds,
                        first_iou=effort and effort.first_iou,
                        last_iou=effort and effort.last_iou,
                    )
                )
        return self.fiftyone.Detections(detections=found)

    def _predicted(self, record: ImageRecord) -> Any:
        found = []
        height, width = record.image.height, record.image.width
        for answer in record.predicted:
            with self.sessions() as session:
                row = interactions.get(session, answer.interaction_id)
            try:
                boxed = self.masks.put(decode(row.rle, height, width))
            except MaskloopError as error:
                self._leave_out(f"prediction {answer.interaction_id}", error)
                continue
            if boxed is not None:
                found.append(
                    self._detection(
                        boxed,
                        label=answer.label,
                        confidence=answer.score,
                        ls_region_id=answer.region_id,
                        clicks=len(answer.prompts),
                        model_version=answer.version,
                        became_accepted=bool(answer.accepted),
                    )
                )
        return self.fiftyone.Detections(detections=found)

    def _detection(self, boxed: BoxedMask, **values: Any) -> Any:
        return self.fiftyone.Detection(
            bounding_box=list(boxed.box), mask_path=str(boxed.path), **values
        )

    def _forget_masks(self) -> None:
        used: set[str] = set()
        for name in ("accepted", "prediction"):
            used.update(self.dataset.values(f"{name}.detections[].mask_path"))
        self.masks.keep_only(used)

    def _leave_out(self, what: str, error: MaskloopError) -> None:
        self.left_out += 1
        log.warning("%s is not shown in FiftyOne: %s", what, error)


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    """Wait for a mirror run of another process on this machine."""
    folder = fiftyone_folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mirror.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _total(values: Sequence[float | None]) -> Any:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
