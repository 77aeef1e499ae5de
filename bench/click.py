"""Measures how long a click takes: ``python -m bench.click [--json FILE]``.

The backend runs on loopback with two torch threads and the shipped model, and one photograph of
1024x768 is already encoded. Times are of whole HTTP requests to /predict. A session has a first
click and up to four clicks that correct the mask, and every mask is logged as in production. The
times do not include Label Studio itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from bench.backends import running_backend, settings_of
from model.files import write_file
from pipeline.labelstudio.template import default_label_config

WIDTH, HEIGHT = 1024, 768
THREADS = 2
CLICKS_PER_OBJECT = 5


def photograph(path: Path) -> None:
    """Write scikit-image's astronaut at the size of this bench."""
    from skimage import data

    picture: np.ndarray[Any, Any] = data.astronaut()  # type: ignore[no-untyped-call]
    Image.fromarray(picture).resize((WIDTH, HEIGHT)).save(path, quality=92)


def click_request(task: int, places: np.ndarray[Any, Any], turn: int) -> dict[str, Any]:
    marks = [
        {
            "original_width": WIDTH,
            "original_height": HEIGHT,
            "image_rotation": 0,
            "value": {"x": x, "y": y, "width": 0.6, "keypointlabels": ["Object"]},
            "is_positive": k % 3 != 1,
            "id": f"bench-{turn}-{k}",
            "from_name": "click",
            "to_name": "image",
            "type": "keypointlabels",
        }
        for k, (x, y) in enumerate(places.tolist())
    ]
    shown = {"id": task, "data": {"image": "/data/local-files/?d=photo.jpg"}, "drafts": []}
    return {
        "tasks": [shown],
        "project": "1.1",
        "label_config": default_label_config(),
        "params": {"context": {"result": marks}},
    }


def measure(address: str, objects: int) -> list[float]:
    """Milliseconds of each request, without the encode and the warm-up."""
    rng = np.random.default_rng(0)
    times = []
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as client:
        for turn in range(-2, objects):
            places = rng.uniform(10, 90, (CLICKS_PER_OBJECT, 2))
            for count in range(1, CLICKS_PER_OBJECT + 1):
                body = click_request(turn + 10, places[:count], turn)
                began = time.perf_counter()
                client.post("/predict", json=body).raise_for_status()
                if turn >= 0:
                    times.append(1000 * (time.perf_counter() - began))
    return times


def summary(times: list[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {
        "image": f"{WIDTH}x{HEIGHT}",
        "threads": THREADS,
        "clicks": len(times),
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "p99_ms": round(cuts[98], 1),
        "load_average": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=30, help="sessions of five clicks each")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "files").mkdir()
        photograph(home / "files" / "photo.jpg")
        with running_backend(settings_of(home, THREADS)) as running:
            result = summary(measure(running.address, arguments.objects))
    view = Table(title="POST /predict, the image already encoded")
    for name in result:
        view.add_column(name, justify="right")
    view.add_row(*(str(value) for value in result.values()))
    Console().print(view)
    if arguments.json:
        write_file(arguments.json, json.dumps(result, indent=2).encode())


if __name__ == "__main__":
    main()
