"""SQL is the record; everything else can be rebuilt from it. One file per concept."""

from __future__ import annotations

from pipeline.tables.base import Base, now
from pipeline.tables.image import Embedding, Image
from pipeline.tables.interaction import Interaction
from pipeline.tables.model_version import GateDecision, ModelVersion, Snapshot, SnapshotRegion
from pipeline.tables.region import Effort, Region
from pipeline.tables.round import Job, Round, RoundItem
from pipeline.tables.task import Annotation, Event, Task

__all__ = [
    "Annotation",
    "Base",
    "Effort",
    "Embedding",
    "Event",
    "GateDecision",
    "Image",
    "Interaction",
    "Job",
    "ModelVersion",
    "Region",
    "Round",
    "RoundItem",
    "Snapshot",
    "SnapshotRegion",
    "Task",
    "now",
]
