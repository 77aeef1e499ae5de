"""Compares our network with arrays that the reference network made.

    python -m model.export.parity CHECKPOINT.pth FIXTURE.npz

A fixture holds, for each image size ``HxW``: ``HxW/image`` (uint8 ``[H, W, 3]``),
``HxW/image_feats`` (float32 ``[1, C, G, G]``), ``HxW/clicks_positive_row_col`` (int or float
``[n, 3]``, in order) and, for each k from 1 to n, ``HxW/prob_after_k_clicks`` (float32 ``[H, W]``).
Each answer is fed back as the next prompt's previous mask.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from model.checkpoints.files import load
from model.errors import DatasetError, MaskloopError
from model.network.prompts import Click, Prompt
from model.network.segnext import SegNext

FEATURES_TOLERANCE = 1e-3
MASK_TOLERANCE = 1e-4


def differences(model: SegNext, fixture: Path) -> dict[str, float]:
    """The largest absolute difference for each array of a fixture, by the array's name.

    Raises:
        DatasetError: the file is not such a fixture: it cannot be read, or an array is missing, of
            the wrong type, or without its click.
    """
    try:
        with fixture.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{fixture} cannot be read as a fixture ({error}); check it.") from None
    sizes = sorted({name.split("/")[0] for name in arrays if name.endswith("/image")})
    if not sizes:
        raise DatasetError(f"{fixture} holds no HxW/image array; it is not a parity fixture.")
    result = {}
    try:
        for size in sizes:
            clicks = _clicks(arrays.pop(f"{size}/clicks_positive_row_col"))
            embedding = model.encode(arrays.pop(f"{size}/image"))
            name = f"{size}/image_feats"
            result[name] = _largest(embedding.features[None].numpy(), arrays.pop(name))
            previous = None
            for k in range(1, len(clicks) + 1):
                prompt = Prompt(clicks[:k], mask=previous)
                previous = model.decode(embedding, prompt).full()
                name = f"{size}/prob_after_{k}_clicks"
                result[name] = _largest(previous, arrays.pop(name))
    except KeyError as error:
        raise DatasetError(f"{fixture} lacks {error.args[0]}; make it again.") from None
    unasked = [name for name in arrays if "/prob_after_" in name]
    if unasked:
        raise DatasetError(f"{fixture} holds {min(unasked)} without its click; make it again.")
    return result


def _clicks(array: npt.NDArray[Any]) -> tuple[Click, ...]:
    """The clicks of rows [1 or 0, row, col], ``[n, 3]``."""
    if array.size and (array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iuf"):
        raise DatasetError("A fixture's clicks are rows of [1 or 0, row, col]; make it again.")
    return tuple(Click(row, col, bool(positive)) for positive, row, col in array.tolist())


def _largest(ours: npt.NDArray[np.float32], theirs: npt.NDArray[Any]) -> float:
    """The largest absolute difference; infinite where shapes or types do not fit."""
    if ours.shape != theirs.shape or theirs.dtype.kind != "f":
        return float("inf")
    return float(np.abs(ours - theirs).max())


def tolerance(name: str) -> float:
    """The largest difference that is allowed for an array of that name."""
    return FEATURES_TOLERANCE if name.endswith("image_feats") else MASK_TOLERANCE


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the largest difference for each array.

    The exit code is 0 when all are within tolerance, 1 when one is not, 2 when a file is unusable.
    """
    parser = argparse.ArgumentParser(prog="python -m model.export.parity", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("fixture", type=Path)
    paths = parser.parse_args(arguments)
    try:
        found = differences(load(paths.checkpoint), paths.fixture)
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
