"""Reads the authors' released checkpoints without trusting them.

A released file is a zip archive by PyTorch, which holds ``{"state_dict": {name: tensor}, "config":
{"class": ..., "params": {name: {"value": ...}}}}``. ``model.checkpoints.released_config`` reads the
config.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.checkpoints.released_config import UnfitError, read_config
from model.errors import CheckpointError
from model.network.config import SegNextConfig

MAGIC = b"PK\x03\x04"  # how a zip archive begins


def read_released(path: Path) -> tuple[SegNextConfig, dict[str, Tensor]]:
    """The network's config, and its weights by parameter name, in the types of the file.

    Raises:
        CheckpointError: the file is cut short, damaged or unsafe, is not a SegNext, or is one that
            computes something which our network cannot.
    """
    try:
        _check_archive(path)
        raw = _unpickle(path)
        if not isinstance(raw, dict) or not {"state_dict", "config"} <= raw.keys():
            raise UnfitError("holds no state_dict and config, so it is no released SegNext")
        state = _plain_state(raw["state_dict"], path.stat().st_size)
        return read_config(raw["config"], state), state
    except UnfitError as reason:
        raise CheckpointError(
            f"{path.name} {reason}; get it again, or give a file in the authors' format."
        ) from None


# --- the archive ---


def _check_archive(path: Path) -> None:
    """Refuse an archive that is damaged, or larger unpacked than on disk: ``torch.save`` does not
    compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or (
                sum(entry.file_size for entry in entries) > path.stat().st_size
            ):
                raise UnfitError("would unpack to more than it holds")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        raise UnfitError("is cut short or damaged") from None
    except OSError as error:
        raise UnfitError(f"cannot be read ({error.strerror})") from None
    if damaged is not None:
        raise UnfitError("is damaged")


def _unpickle(path: Path) -> Any:
    try:
        # Reads numbers, strings, tuples and tensors only: a pickle that runs code is refused.
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        what = f"wants to run {wanted[1][:80]}" if wanted else "holds more than numbers"
        raise UnfitError(f"is not safe to read: it {what}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise UnfitError(f"cannot be read ({type(error).__name__})") from None


# --- the weights ---


def _plain_state(state: Any, file_size: int) -> dict[str, Tensor]:
    """The weights by parameter name, without those that the network never uses."""
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and _is_plain(tensor) for name, tensor in state.items()
    ):
        raise UnfitError("holds weights that are not plain tensors")
    # A tensor of any size can be a view of a few bytes; a copy of it would fill the memory.
    if sum(tensor.nbytes for tensor in state.values()) > file_size:
        raise UnfitError("claims more weights than it holds")
    if state and all(name.startswith("module.") for name in state):  # saved from DataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    # The released files hold fc_norm, which the reference network never applies.
    return {name: t.detach() for name, t in state.items() if "fc_norm" not in name.split(".")}


def _is_plain(tensor: Any) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
    )
