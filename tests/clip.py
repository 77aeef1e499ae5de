"""A tiny CLIP model with random weights, made and saved by open_clip itself.

It is found, read and checked in the same way as the large models.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch

from model.compat import ensure_torchvision

NAME = "tiny-clip"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 24, "width": 16, "heads": 2, "layers": 1},
}


def make_clip(folder: Path) -> Path:
    """Write the weights of a CLIP model, and register it in open_clip as ``NAME``."""
    ensure_torchvision()
    import open_clip

    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{NAME}.json")
    logging.disable(logging.WARNING)  # it warns about random weights, which are intended here
    try:
        clip = open_clip.create_model(NAME)
    finally:
        logging.disable(logging.NOTSET)
    torch.save(clip.state_dict(), folder / "clip.pt")
    return folder / "clip.pt"
