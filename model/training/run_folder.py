"""What a run keeps in its folder: the state that a killed run goes on from, and its log."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from model.data.crops import Crop
from model.errors import UNREADABLE, CheckpointError, DatasetError
from model.files import replacing
from model.network.segnext import SegNext

COLUMNS = ("step", "loss", "learning_rate", "seconds", "waited", "miou1", "miou5")
SMOOTHING = 0.98  # share of the loss in the log that is kept from one step to the next


def save_state(
    path: Path, model: SegNext, average: SegNext, optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write the state after ``step`` steps; the file before it stays until this one is whole."""
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
    }
    with replacing(path) as file:
        torch.save(state, file)


def resume(path: Path, model: SegNext, average: SegNext, optimizer: torch.optim.Optimizer) -> int:
    """Take over a saved state, where there is one.

    Returns:
        How many steps were done; 0 where there is no file.

    Raises:
        CheckpointError: the file is damaged, or is the state of another run.
    """
    if not path.is_file():
        return 0
    groups = optimizer.param_groups
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        wanted = [{k: group[k] for k in ("scale", "weight_decay")} for group in groups]
        optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(optimizer.param_groups, wanted, strict=True):
            group.update(values)  # the recipe may have changed since the state was saved
        return int(state["step"])
    except UNREADABLE as error:
        raise CheckpointError(
            f"{path} is not the state of this run ({error}); remove it to start again."
        ) from None


class Log:
    """The curves of a run: a smoothed loss, and how long the steps waited for their crops."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._loss = float("nan")
        self._since = time.monotonic()
        self._waited = 0.0

    def waiting(self, batches: Iterator[list[Crop] | DatasetError]) -> Iterator[list[Crop]]:
        """Pass the crops of each step on, and count the time spent waiting for them.

        Raises:
            DatasetError: the step has no crops; see ``model.training.batches``.
        """
        while True:
            began = time.monotonic()
            try:
                crops = next(batches)
            except StopIteration:
                return
            self._waited += time.monotonic() - began
            if isinstance(crops, DatasetError):
                raise crops
            yield crops

    def loss(self, value: float) -> None:
        """Take in the loss of one step."""
        if math.isnan(self._loss):
            self._loss = value
        else:
            self._loss = SMOOTHING * self._loss + (1 - SMOOTHING) * value

    def write(self, step: int, rate: float, measured: dict[str, float]) -> None:
        """Append one line: seconds taken and waited since the last one; IoU where measured."""
        now = time.monotonic()
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            figures = [f"{measured[k]:.4f}" if k in measured else "" for k in ("miou1", "miou5")]
            seconds, waited = f"{now - self._since:.1f}", f"{self._waited:.1f}"
            writer.writerow([step, f"{self._loss:.5f}", f"{rate:.3e}", seconds, waited, *figures])
        self._since, self._waited = now, 0.0
