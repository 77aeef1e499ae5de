"""Our checkpoints: safetensors with the config inside. Released checkpoints are only read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoints.released import MAGIC, read_released
from model.errors import CheckpointError
from model.files import write_file
from model.network.config import SegNextConfig
from model.network.segnext import SegNext

FORMAT = "maskloop-segnext-1"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
PICKLE = b"\x80"  # the first byte of the files that PyTorch wrote before it wrote archives
START = 64  # bytes that tell one kind of file from another
_PAGE = re.compile(rb"\s*<(!doctype|html|head|\?xml|!--)", re.IGNORECASE)


def default_checkpoint() -> Path:
    """Path of the weights that ship with the package: those of the small network."""
    return Path(__file__).parents[1] / "weights" / "small.safetensors"


def load_model(path: str | Path | None = None, device: str = "cpu") -> SegNext:
    """Build the network of a checkpoint, ready to answer prompts.

    Args:
        path: a checkpoint in our format or the released one; None: the weights that ship with the
            package.
        device: torch device, such as ``cpu`` or ``cuda``.

    Returns:
        The network in float32 and evaluation mode.

    Raises:
        CheckpointError: as ``load``.
    """
    return load(default_checkpoint() if path is None else Path(path), device)


def save(model: SegNext, path: Path, *, exact: bool = False) -> None:
    """Write ``to_bytes`` to a file, which a reader sees whole or not at all.

    Raises:
        OSError: the file system refused it; what was at ``path`` is still there.
    """
    write_file(path, to_bytes(model, exact=exact))


def to_bytes(model: SegNext, *, exact: bool = False) -> bytes:
    """The network with its config, as safetensors in half precision.

    Equal networks give equal bytes.

    Args:
        exact: keep in float32 the tensors that half precision would round, so that the network
            that is read back gives the same masks and has the same encoder fingerprint.
    """
    tensors = {
        name: _halved(tensor.detach().cpu(), exact).contiguous()
        for name, tensor in model.state_dict().items()
    }
    metadata = {"format": FORMAT, "config": model.config.to_json()}
    return _in_order(safetensors.torch.save(tensors, metadata=metadata))


def load(path: Path, device: str = "cpu") -> SegNext:
    """Read a checkpoint in our format or the released one, and build its network.

    Returns:
        The network in float32 and evaluation mode.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or does not fit its own config.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}; check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(START)
    except OSError as error:
        raise CheckpointError(
            f"{path.name} cannot be read ({error.strerror}); check the file and its rights."
        ) from None
    if not start:
        raise CheckpointError(f"{path.name} is empty; get it again.")
    if _PAGE.match(start):
        raise CheckpointError(
            f"{path.name} is a web page, as a refused download leaves it; download the checkpoint "
            "with a browser and give its path."
        )
    if start.startswith(PICKLE) and start[8:9] != b"{":  # safetensors begin with a length, then {
        raise CheckpointError(
            f"{path.name} is a bare pickle, which is not safe to read; save it again with "
            "PyTorch 1.6 or newer."
        )
    config, state = read_released(path) if start.startswith(MAGIC) else _read_ours(path)
    return _build(path.name, config, state).eval().to(device)


def outline(config: SegNextConfig) -> SegNext:
    """A network with names and shapes but without memory for its weights, however large it is."""
    with torch.device("meta"):
        return SegNext(config)


def read_config(path: Path) -> SegNextConfig:
    """The shape of the network in a checkpoint of ours, without reading its weights.

    Raises:
        CheckpointError: the file is damaged, or not in our format.
    """
    with _opened(path) as (config, _):
        return config


def is_released(path: Path) -> bool:
    """Whether a file begins like one in the authors' format.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _build(name: str, config: SegNextConfig, state: dict[str, Tensor]) -> SegNext:
    """The network with the weights ``state``, after comparing their names, shapes and types."""
    expected = outline(config).state_dict()
    for key, wanted in expected.items():
        found = state.get(key)
        if found is None:
            raise _misfit(name, f"lacks {key}")
        if found.shape != wanted.shape:
            shapes = f"{tuple(found.shape)}, not {tuple(wanted.shape)}"
            raise _misfit(name, f"has {key} in the shape {shapes}")
        if found.dtype not in (FLOATS if wanted.is_floating_point() else (wanted.dtype,)):
            raise _misfit(name, f"has {key} as {str(found.dtype).removeprefix('torch.')}")
        if found.is_floating_point() and not _is_finite(found):
            raise CheckpointError(
                f"{name} holds numbers that are not finite ({key}); get it again, or take an "
                "earlier one of its training."
            )
    for key in state.keys() - expected.keys():
        raise _misfit(name, f"has {key[:80]!r} too many")
    model = SegNext(config)
    model.load_state_dict(state)
    return model


def _is_finite(tensor: Tensor) -> bool:
    low, high = torch.aminmax(tensor)  # one pass without a copy; NaN shows in both
    return bool(low.isfinite() and high.isfinite())


def _in_order(data: bytes) -> bytes:
    """The same safetensors with a sorted header: the library's own order differs from call to
    call."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)  # so that the tensors after it stay aligned
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(data)[end:]))


def _misfit(name: str, how: str) -> CheckpointError:
    return CheckpointError(f"{name} does not fit its own config: it {how}; get it again.")


def _halved(tensor: Tensor, exact: bool) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    return tensor if exact and not torch.equal(half.to(tensor.dtype), tensor) else half


def _read_ours(path: Path) -> tuple[SegNextConfig, dict[str, Tensor]]:
    with _opened(path) as (config, file):
        return config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[tuple[SegNextConfig, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path.name} is a safetensors file but not a maskloop checkpoint; give one "
                    "that `maskloop` wrote, or a released .pth."
                )
            yield SegNextConfig.from_json(metadata.get("config", "")), file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is neither a maskloop checkpoint nor a released one, or is damaged "
            f"({error}); get it again."
        ) from None
