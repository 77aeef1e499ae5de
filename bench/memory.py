"""Peak memory of a click and of an encode, in MB: ``python -m bench.memory NAME WIDTH HEIGHT``.

Each case runs in a separate process, which ``bench.network`` starts, because memory that a process
has used once is not released and would hide a later, smaller use. Linux only.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.network import network
from model.inference import precision
from model.network.embedding import Embedding
from model.network.prompts import Click, Prompt


def memory(name: str, size: tuple[int, int], *, quick: bool) -> dict[str, Any]:
    """Memory in MB that this process needs for clicks and for an encode, in addition to what it
    held before, weights included. ``process`` is its highest total."""
    model = network(name, quick=quick)
    precision.lower(model, precision.choose("auto", model))
    height, width = size[1], size[0]
    rows, cols = model.input_size((height, width))
    # In production another process has encoded the image, and its embedding comes from the store.
    maps = [(model.config.dim, 16)] + ([(24, 4), (32, 8)] if name == "small" else [])
    features, *skips = (torch.rand(c, rows // s, cols // s).half() for c, s in maps)
    embedding = Embedding(features, tuple(skips), (height, width))
    first = Prompt((Click(height / 2, width / 2),))
    started = _status("VmHWM")  # includes imports such as PyTorch, and reading the weights
    before = _peak_from_now()
    probability = model.decode(embedding, first).probability
    mask = model.decode(embedding, replace(first, mask=probability)).mask()
    clicks = _status("VmHWM") - before
    image = np.zeros((height, width, 3), np.uint8)
    before = _peak_from_now()
    model.encode(image)
    return {
        "network": name,
        "image": f"{width}x{height}",
        "click": round(clicks),
        "of_that_the_mask": round(mask.nbytes / 1e6),
        "encode": round(_status("VmHWM") - before),
        "weights": round(sum(p.nbytes for p in model.parameters()) / 1e6),
        "process": round(max(started, before + clicks, _status("VmHWM"))),
    }


def _peak_from_now() -> float:
    """Reset the peak to the present memory of this process; returns that memory in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> float:
    """A figure from this process's status in Linux, in MB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=("small", "released"))
    parser.add_argument("width", type=int)
    parser.add_argument("height", type=int)
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--quick", action="store_true", help="a tiny released shape: a rehearsal")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = arguments.width, arguments.height
    sys.stdout.write(json.dumps(memory(arguments.name, size, quick=arguments.quick)) + "\n")


if __name__ == "__main__":
    main()
