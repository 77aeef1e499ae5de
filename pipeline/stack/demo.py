"""The demo project: photographs that scikit-image and scikit-learn carry, in Label Studio."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from model.progress import Progress
from pipeline.errors import ServiceError
from pipeline.labelstudio.client import LabelStudio
from pipeline.labelstudio.config import read_label_config
from pipeline.labelstudio.template import default_label_config

TITLE = "maskloop demo"
DESCRIPTION = (
    "Turn on Auto-Annotation, press K and a label's digit, and click an object; Alt+click removes "
    "a part. Accept the mask with the tick, then press Submit."
)
# Each file is part of the library's wheel, so no network is needed, and shows objects to outline.
PHOTOGRAPHS = {
    "skimage": (
        "data",
        (
            "astronaut.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "coffee.png",
            "coins.png",
            "ihc.png",
            "motorcycle_left.png",
            "retina.jpg",
            "rocket.jpg",
        ),
    ),
    "sklearn": ("datasets/images", ("china.jpg", "flower.jpg")),
}


def photographs() -> list[Path]:
    """The files of the photographs, in the order of their upload.

    Raises:
        ServiceError: a library that carries them is not installed.
    """
    found: list[Path] = []
    for package, (folder, names) in PHOTOGRAPHS.items():
        # find_spec of a top-level name imports nothing; importing these takes seconds.
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ServiceError(f"{package}, which carries the photographs, is missing; run `make`.")
        paths = [Path(spec.origin).parent / folder / name for name in names]
        found += [path for path in paths if path.is_file()]  # another release may have fewer
    return found


def make_demo(client: LabelStudio, progress: Progress | None = None) -> int:
    """Make the demo project, or finish one that was interrupted; returns its id.

    Raises:
        LabelStudioError: Label Studio refused or is out of reach.
        ServiceError: the photographs are missing.
    """
    project = _find(client)
    if project is None:
        project = client.create_project(
            TITLE, default_label_config(), description=DESCRIPTION, show_collab_predictions=True
        )
    field = read_label_config(default_label_config()).image_field
    there = [str(task.data.get(field, "")) for task in client.tasks(project)]
    paths = photographs()
    for done, path in enumerate(paths):
        if progress:
            progress(done, len(paths))
        if not _uploaded(path.name, there):
            client.upload_image(project, path.name, path.read_bytes())
    if progress:
        progress(len(paths), len(paths))
    return project


def _find(client: LabelStudio) -> int | None:
    ids = [int(project["id"]) for project in client.projects() if project.get("title") == TITLE]
    return min(ids, default=None)


def _uploaded(name: str, urls: Sequence[str]) -> bool:
    # Label Studio puts a few characters and a dash in front of an uploaded file's name.
    return any(url.endswith((f"-{name}", f"/{name}")) for url in urls)
