"""SQL is the record; everything else can be rebuilt from it. One file per concept."""

from __future__ import annotations

from pipeline.record.tables.base import Base, now
from pipeline.record.tables.heartbeat import Heartbeat
from pipeline.record.tables.image import Embedding, Image
from pipeline.record.tables.interaction import Interaction
from pipeline.record.tables.model_version import (
    GateDecision,
    ModelVersion,
    Snapshot,
    SnapshotRegion,
)
from pipeline.record.tables.project import Project
from pipeline.record.tables.region import Effort, Region
from pipeline.record.tables.round import Job, Round, RoundItem
from pipeline.record.tables.task import Annotation, Event, Task

__all__ = [
    "Annotation",
    "Base",
    "Effort",
    "Embedding",
    "Event",
    "GateDecision",
    "Heartbeat",
    "Image",
    "Interaction",
    "Job",
    "ModelVersion",
    "Project",
    "Region",
    "Round",
    "RoundItem",
    "Snapshot",
    "SnapshotRegion",
    "Task",
    "now",
]
