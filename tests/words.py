"""A small network that learns the words of ``tests.shapes`` in half a minute."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoints.files import default_checkpoint, load
from model.data.datasets import read_folder
from model.network.segnext import SegNext
from model.training.named_pictures import FolderPicture, encode_pictures
from model.training.text_training import TextTrainConfig, train_text
from tests.shapes import write_named_folder

SEEN, HELD, SIDE = range(100), range(1000, 1020), 96


def tiny(size: int, dim: int, width: int) -> SegNext:
    """A small network with random weights, except for the shipped backbone."""
    ships = load(default_checkpoint())
    torch.manual_seed(0)
    shape = replace(
        ships.config,
        **{"size": size, "dim": dim, "depth": 0, "heads": 2, "fusion_depth": 1, "fusion_heads": 2},
        **{"neck": (width,) * 4, "head": width, "detail": width},
    )
    model = SegNext(shape).eval()
    backbone = ships.backbone.get_submodule("backbone").state_dict()
    model.backbone.get_submodule("backbone").load_state_dict(backbone)
    return model


def teach(folder: Path) -> tuple[SegNext, list[FolderPicture]]:
    """A network that learned words from the pictures ``SEEN``, and the pictures ``HELD``, which it
    never saw. All have sides of ``SIDE`` pixels."""
    write_named_folder(folder, SEEN, "train", size=SIDE)
    write_named_folder(folder, HELD, "val", size=SIDE)
    model = tiny(size=SIDE, dim=64, width=16)
    learned, held = (
        encode_pictures(model, read_folder(folder, split), folder / "embeddings")
        for split in ("train", "val")
    )
    # The decoder has random weights, so it is trained too, at the full learning rate.
    config = TextTrainConfig(depth=1, steps=450, learning_rate=2e-3, decoder=1.0, seed=1)
    return train_text(model, learned, config, folder / "state.pt"), held
