"""Makes torchvision importable beside a torch build that its compiled operators do not fit.

The published torchvision package is built against CUDA. Beside a CPU build of torch its library
does not load, so the operators ``nms`` and ``qnms`` are never declared, and ``import torchvision``
fails while it registers shapes for them (pytorch/vision#9077). timm, open_clip and parts of
FiftyOne import it. Declaring the two schemas is enough for everything that does not call them. On a
matching install nothing is changed.
"""

from __future__ import annotations

import importlib
import sys

import torch

# The declarations last as long as this object does.
_declared: list[torch.library.Library] = []


def ensure_torchvision() -> None:
    """Make ``import torchvision`` work in this process. Call before importing timm or open_clip."""
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
        return
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
    importlib.import_module("torchvision")
