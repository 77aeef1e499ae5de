"""The segmentation network and everything around it that needs no database, queue or web server.

The names below are the public surface. Each is imported when it is first used, so that
``import model`` and ``import model.errors`` do not import PyTorch::

    network = model.load_model()
    embedding = network.encode(image)  # uint8 [H, W, 3], RGB, upright
    prompt = model.Prompt(clicks=(model.Click(row=120, col=340),))
    mask = network.decode(embedding, prompt).mask()  # bool [H, W]

Everything else is imported from its own module. The packages, from the lowest to the highest; each
may import those before it, and packages on one line do not import each other:

- ``errors``, ``progress``, ``files``, ``masks``, ``compat``: single modules that import nothing
  of ours;
- ``network``: the network itself, its prompts and its answers;
- ``checkpoints``, ``inference``, ``data``: weights on disk; what serving adds to the network;
  images with object masks;
- ``evaluation``: simulated annotators and the figures measured with them;
- ``training``, ``export``: learning; ONNX files and the comparison with the reference network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.checkpoints.files import load_model
    from model.network.embedding import Embedding
    from model.network.prediction import Prediction
    from model.network.prompts import Box, Click, Polygon, Prompt, Scribble
    from model.network.segnext import SegNext

__all__ = [
    "Box",
    "Click",
    "Embedding",
    "Polygon",
    "Prediction",
    "Prompt",
    "Scribble",
    "SegNext",
    "load_model",
]

_MODULES = {
    "Box": "model.network.prompts",
    "Click": "model.network.prompts",
    "Embedding": "model.network.embedding",
    "Polygon": "model.network.prompts",
    "Prediction": "model.network.prediction",
    "Prompt": "model.network.prompts",
    "Scribble": "model.network.prompts",
    "SegNext": "model.network.segnext",
    "load_model": "model.checkpoints.files",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
