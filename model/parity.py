"""Checks our network against arrays the reference network made.

    python -m model.parity CHECKPOINT.pth FIXTURE.npz

A fixture holds, per image size ``HxW``: ``HxW/image`` (uint8 ``[H, W, 3]``), ``HxW/image_feats``
(float32 ``[1, C, G, G]``), ``HxW/clicks_positive_row_col`` (int ``[n, 3]``, in order) and
``HxW/prob_after_k_clicks`` (float32
``[H, W]``, each answer fed back as the next prompt's previous mask).
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from model.checkpoints import load
from model.errors import DatasetError, MaskloopError
from model.prompts import Click, Prompt
from model.segnext import SegNext

FEATURES_TOLERANCE = 1e-3
MASK_TOLERANCE = 1e-4


def differences(model: SegNext, fixture: Path) -> dict[str, float]:
    """The largest absolute difference per array of a fixture, keyed by the array's name.

    Raises:
        DatasetError: the file is not such a fixture.
    """
    try:
        with np.load(fixture, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{fixture} cannot be read as a fixture ({error}); check it.") from None
    sizes = sorted({name.split("/")[0] for name in arrays if name.endswith("/image")})
    if not sizes:
        raise DatasetError(f"{fixture} holds no HxW/image array; it is not a parity fixture.")
    result = {}
    try:
        for size in sizes:
            embedding = model.encode(arrays[f"{size}/image"])
            expected = arrays[f"{size}/image_feats"][0]
            result[f"{size}/image_feats"] = _largest(embedding.features.numpy(), expected)
            clicks: tuple[Click, ...] = ()
            previous = None
            for k, (positive, row, col) in enumerate(
                arrays[f"{size}/clicks_positive_row_col"].tolist(), start=1
            ):
                clicks += (Click(row, col, bool(positive)),)
                previous = model.decode(embedding, Prompt(clicks, mask=previous)).full()
                name = f"{size}/prob_after_{k}_clicks"
                result[name] = _largest(previous, arrays[name])
    except KeyError as error:
        raise DatasetError(f"{fixture} lacks an array ({error.args[0]}).") from None
    return result


def _largest(ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max())


def tolerance(name: str) -> float:
    """The largest difference allowed for an array of that name."""
    return FEATURES_TOLERANCE if name.endswith("image_feats") else MASK_TOLERANCE


def main() -> int:
    """Print the largest difference per array; 0 when all are within tolerance, else 1 or 2."""
    parser = argparse.ArgumentParser(prog="python -m model.parity", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("fixture", type=Path)
    arguments = parser.parse_args()
    try:
        found = differences(load(arguments.checkpoint), arguments.fixture)
    except MaskloopError as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        return 2
    table = Table("array", "largest difference", "tolerance", "")
    for name, value in found.items():
        verdict = "ok" if value <= tolerance(name) else "FAILED"
        table.add_row(name, f"{value:.2e}", f"{tolerance(name):.0e}", verdict)
    Console().print(table)
    return int(any(not value <= tolerance(name) for name, value in found.items()))


if __name__ == "__main__":
    sys.exit(main())
