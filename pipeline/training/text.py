"""Trains a text branch and writes its checkpoint: ``maskloop train text``."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoints.files import save
from model.data.datasets import read_folder
from model.errors import CheckpointError, DatasetError
from model.masks import Mask
from model.network.embedding import Embedding
from model.network.segnext import SegNext
from model.progress import Progress, silent
from model.training.named_pictures import Picture, encode_pictures
from model.training.text_evaluation import measure_text
from model.training.text_training import TextTrainConfig, train_text
from pipeline.embeddings.tiers import Embeddings
from pipeline.errors import NotEnoughDataError
from pipeline.masks.ops import from_png
from pipeline.record import snapshots
from pipeline.record.tables import SnapshotRegion
from pipeline.record.tables.image import Split
from pipeline.runtime import Runtime
from pipeline.training import samples
from pipeline.training.snapshots import take_snapshot

Bars = Callable[[str], AbstractContextManager[Progress]]


def no_bars(title: str) -> AbstractContextManager[Progress]:
    """A context with a progress that shows nothing."""
    return nullcontext(silent)


@dataclass(frozen=True, eq=False)
class AcceptedPicture:
    """The accepted regions of one image as a ``model.training.named_pictures.Picture``.

    The labels of the regions are its words. The whole image counts as labelled, so either all
    objects of a label must have a region, or none.
    """

    regions: Sequence[SnapshotRegion]
    embeddings: Embeddings
    model: SegNext

    @property
    def key(self) -> str:
        digest = hashlib.sha256(str(self.regions[0].image_id).encode())
        for region in self.regions:
            digest.update(region.mask)
        return digest.hexdigest()

    @property
    def names(self) -> Sequence[str]:
        return sorted({region.label for region in self.regions})

    def load(self) -> tuple[Embedding, dict[str, Mask], Mask]:
        embedding = self.embeddings.get(self.regions[0].image_id, self.model)
        masks: dict[str, Mask] = {n: np.zeros(embedding.image_size, bool) for n in self.names}
        for region in self.regions:
            masks[region.label] = masks[region.label] | from_png(region.mask)
        return embedding, masks, np.ones(embedding.image_size, bool)


def train_text_file(
    runtime: Runtime,
    data: Path | None,
    out: Path,
    config: TextTrainConfig,
    *,
    base: str | None = None,
    split: str | None = None,
    check: str | None = None,
    bars: Bars = no_bars,
) -> dict[str, Any]:
    """Train a text branch and write the checkpoint ``out``.

    A folder next to ``out`` holds the state from which a killed run continues; it is removed at
    the end.

    Args:
        data: a folder whose manifest names the instances; None: the accepted masks of the loop and
            their labels.
        base: a file or a model version; None: the base of the settings.
        split: the split of the folder's manifest to train on; None: all of it.
        check: the split of the folder's manifest to measure on afterwards; None: nothing is
            measured. Accepted masks are measured on the hold-out.
        bars: gives a progress for each part of the work, by its title.

    Returns:
        The checkpoint, its base, the words and the number of pictures, the seconds it took, and
        under ``checked`` the result of ``model.training.text_evaluation.measure_text``, or None.

    Raises:
        DatasetError: the folder is not a valid dataset, or names no instance; or ``split`` or
            ``check`` is given without a folder.
        NotEnoughDataError: there is no accepted mask to train on.
        CheckpointError: the base, the tower or the state of a killed run cannot be used, or the
            name of ``out`` does not end in .safetensors.
    """
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out} is no name for a checkpoint; end it in .safetensors.")
    if data is None and (split is not None or check is not None):
        raise DatasetError(
            "Accepted masks are in no splits of a manifest; give FOLDER, or leave out --split and "
            "--check: those of the hold-out are measured by themselves."
        )
    runtime.limit_threads()
    started = time.monotonic()
    name, model = runtime.registry.load_named(base)
    work = out.with_name(f"{out.name}.work")
    pictures: Sequence[Picture]
    held: Sequence[Picture] = ()
    with bars("Encoding") as progress:
        if data is None:
            pictures = accepted_pictures(runtime, model, "train", progress)
            held = accepted_pictures(runtime, model, "holdout", progress)
        else:
            items = read_folder(data, split)
            held_items = [] if check is None else read_folder(data, check)
            pictures = encode_pictures(model, items, work / "embeddings", progress)
            if held_items:
                held = encode_pictures(model, held_items, work / "embeddings", progress)
    if not pictures:
        raise NotEnoughDataError(
            "No accepted mask may be learned from; label more images, or give a folder."
        )
    with bars("Training") as progress:
        trained = train_text(model, pictures, config, work / "state.pt", progress)
    save(trained, out, exact=True)  # a rounded encoder would make every stored embedding useless
    checked = None
    if held:
        with bars("Measuring") as progress:
            checked = measure_text(trained, held, progress)
    shutil.rmtree(work)
    return {
        "checkpoint": str(out),
        "base": name,
        "tower": config.tower,
        "pictures": len(pictures),
        "names": sorted({word for picture in pictures for word in picture.names}),
        "seconds": round(time.monotonic() - started, 1),
        "checked": checked,
    }


def accepted_pictures(
    runtime: Runtime, model: SegNext, split: Split, progress: Progress = silent
) -> list[AcceptedPicture]:
    """The images of one split that have accepted masks; images without an embedding are encoded.

    Raises:
        NotEnoughDataError: nothing is accepted yet.
    """
    snapshot = take_snapshot(runtime.sessions)
    with runtime.sessions() as session:
        regions = snapshots.regions(session, snapshot, split)
    images: dict[int, list[SnapshotRegion]] = {}
    for region in samples.usable(regions, runtime.embeddings, model, progress):
        images.setdefault(region.image_id, []).append(region)
    return [AcceptedPicture(each, runtime.embeddings, model) for each in images.values()]
