"""A loop on SQLite with a tiny network, for tests: images and accepted masks made in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as Picture

from model.checkpoints import files as checkpoints
from model.network.config import SegNextConfig
from model.network.segnext import SegNext
from pipeline.images.catalog import task_row
from pipeline.masks.ops import to_png
from pipeline.record import schema
from pipeline.record.tables import Annotation, Image, Region
from pipeline.record.tables.image import Split
from pipeline.runtime import Runtime
from pipeline.settings import HOME_VARIABLE, Settings

TINY = SegNextConfig(
    encoder="mobilenetv2",
    size=64,
    dim=16,
    depth=0,
    heads=2,
    fusion_depth=1,
    fusion_heads=2,
    fusion_mlp_ratio=1.0,
    neck=(8, 8, 8, 8),
    head=8,
    detail=8,
)


def tiny_model(seed: int = 0) -> SegNext:
    """A network with random weights that answers in milliseconds."""
    torch.manual_seed(seed)
    return SegNext(TINY).eval()


def base_checkpoint(folder: Path) -> Path:
    """The file of a tiny base model."""
    path = folder / "base.safetensors"
    checkpoints.save(tiny_model(), path)
    return path


def tiny_settings(folder: Path, **changes: Any) -> Settings:
    """Settings of a loop that keeps all its state in ``folder``."""
    finetune = {"steps": 6, "batch": 2, "gate_clicks": 5, "min_new_regions": 4}
    model = {"base": base_checkpoint(folder), "device": "cpu", "threads": 1}
    values: dict[str, Any] = {
        "home": folder / "home",
        "model": model | changes.pop("model", {}),
        "finetune": finetune | changes.pop("finetune", {}),
    }
    return Settings(**values, **changes)


def command_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Loop:
    """A loop without Redis whose settings the ``maskloop`` command reads from the environment."""
    made = make_loop(folder, redis_url="redis://127.0.0.1:1/0")
    settings = made.runtime.settings
    schema.upgrade(settings)
    monkeypatch.setenv(HOME_VARIABLE, str(settings.home))
    monkeypatch.setenv("MASKLOOP_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("MASKLOOP_MODEL", settings.model.model_dump_json())
    monkeypatch.setenv("MASKLOOP_FINETUNE", settings.finetune.model_dump_json())
    return made


def disk_picture(seed: int, size: int = 64) -> tuple[bytes, npt.NDArray[np.bool_]]:
    """A PNG of a bright disk on noise, and the disk's mask, bool [size, size]."""
    random = np.random.default_rng(seed)
    row, col = random.uniform(size * 0.35, size * 0.65, 2)
    radius = random.uniform(size * 0.15, size * 0.25)
    rows, cols = np.ogrid[:size, :size]
    mask = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
    pixels = random.integers(0, 80, (size, size, 3), dtype=np.uint8)
    pixels[mask] += 150
    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue(), mask


@dataclass
class Loop:
    """A runtime, with methods that put accepted masks into its record."""

    runtime: Runtime
    count: int = field(default=0)

    def accept(
        self, split: Split, mask: npt.NDArray[np.bool_] | None = None, **annotation: Any
    ) -> int:
        """Register a new picture on ``split`` with one accepted mask; returns the region's id."""
        self.count += 1
        data, disk = disk_picture(self.count)
        chosen = disk if mask is None else mask
        png = to_png(chosen)
        known = self.runtime.catalog.register(data)
        with self.runtime.sessions.begin() as session:
            image = session.get_one(Image, known.id)
            image.split = split
            task = task_row(session, 1, self.count, f"/data/upload/{self.count}.png")
            task.image_id = image.id
            session.flush()
            row = Annotation(
                task_id=task.id,
                ls_annotation_id=self.count,
                ls_updated_at=datetime.now(UTC),
                **annotation,
            )
            session.add(row)
            session.flush()
            region = Region(
                annotation_id=row.id,
                image_id=image.id,
                ls_region_id=f"region-{self.count}",
                label="object",
                mask=png,
                area=int(chosen.sum()),
            )
            session.add(region)
            session.flush()
            return region.id

    def accept_many(self, train: int, holdout: int) -> None:
        """Accept masks on that many training and hold-out images."""
        for _ in range(train):
            self.accept("train")
        for _ in range(holdout):
            self.accept("holdout")

    def images(self) -> list[Image]:
        """All images, oldest first."""
        with self.runtime.sessions() as session:
            return list(session.query(Image).order_by(Image.id))


def make_loop(folder: Path, **changes: Any) -> Loop:
    """A new loop in ``folder``."""
    return Loop(Runtime(tiny_settings(folder, **changes), migrate=True))
