"""A tiny CLIP model with random weights, made and saved by open_clip itself.

The way it is found, read and checked is the same as for the large ones.
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
    """Weights of a CLIP model that open_clip knows as ``NAME`` from now on."""
    ensure_torchvision()
    import open_clip

    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(folder / f"{NAME}.json")
    logging.disable(logging.WARNING)  # it warns of random weights, which are wanted here
    try:
        clip = open_clip.create_model(NAME)
    finally:
        logging.disable(logging.NOTSET)
    torch.save(clip.state_dict(), folder / "clip.pt")
    return folder / "clip.pt"
