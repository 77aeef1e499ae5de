"""Checkpoints: ours (safetensors, half precision, config inside) and the authors' released ones."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.config import SegNextConfig
from model.errors import CheckpointError
from model.segnext import SegNext

FORMAT = "maskloop-segnext-1"


def default_checkpoint() -> Path:
    """Path of the small model's weights that ship with the package."""
    return Path(__file__).parent / "weights" / "small.safetensors"


def save(model: SegNext, path: Path) -> None:
    """Write the network in half precision with its config. Atomic: a reader never sees half a
    file."""
    tensors = {
        name: (t.half() if t.is_floating_point() else t).cpu().contiguous()
        for name, t in model.state_dict().items()
    }
    data = safetensors.torch.save(
        tensors, metadata={"format": FORMAT, "config": model.config.to_json()}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(data)
    os.replace(scratch, path)


def load(path: Path, device: str = "cpu") -> SegNext:
    """Read a checkpoint in our format or the released one (``.pth``) and build its network.

    Returns:
        The network in float32 and evaluation mode.

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or does not fit its own config.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint at {path}; check the path.")
    if path.suffix == ".pth":
        config, state = _read_released(path)
    else:
        config, state = _read_ours(path)
    model = SegNext(config)
    # Never applied, but it exists in the released files.
    state = {k: v for k, v in state.items() if not k.startswith("backbone.fc_norm.")}
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        raise CheckpointError(
            f"{path.name} does not fit its own config ({' '.join(first).strip()}); get it again."
        ) from None
    return model.eval().to(device)


def _read_ours(path: Path) -> tuple[SegNextConfig, dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path.name} is a safetensors file but not a maskloop checkpoint; give one "
                    "that `maskloop` wrote, or a released .pth."
                )
            config = SegNextConfig.from_json(metadata.get("config", ""))
            return config, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} cannot be read ({error}); get it again.") from None


def _read_released(path: Path) -> tuple[SegNextConfig, dict[str, Tensor]]:
    try:
        # Numbers, strings, tuples and tensors only: a pickle that wants to run code is refused.
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path.name} is damaged or not safe to read ({reason}); get it again."
        ) from None
    if not isinstance(raw, dict) or not {"state_dict", "config"} <= raw.keys():
        raise CheckpointError(f"{path.name} is not a released SegNext checkpoint; check the file.")
    state = raw["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path.name} holds no state dict; get it again.")
    return released_config(raw["config"], state), state


def released_config(config: Any, state: dict[str, Tensor]) -> SegNextConfig:
    """Our config from a released file's own description.

    Raises:
        CheckpointError: a field is missing or of the wrong kind.
    """
    try:
        params = {name: entry["value"] for name, entry in config["params"].items()}
        backbone, neck = params["backbone_params"], params["neck_params"]
        fusion = params.get("fusion_params") or {}
        size = backbone["img_size"]
        shape = fusion.get("params") or {}
        mean, std = params.get("norm_mean_std") or (SegNextConfig.mean, SegNextConfig.std)
        if not params.get("use_disks", True):
            raise CheckpointError(
                "The released checkpoint was trained with distance maps, not disks, for clicks; "
                "give one that was trained with disks."
            )
        return SegNextConfig(
            encoder="vit",
            size=size[0] if isinstance(size, (tuple, list)) else size,
            dim=backbone["embed_dim"],
            depth=backbone["depth"],
            heads=backbone["num_heads"],
            mlp_ratio=float(backbone.get("mlp_ratio", 4)),
            window_freq=backbone.get("global_atten_freq", 0),
            fusion=fusion.get("type", "naive"),
            fusion_depth=fusion.get("depth", 0),
            fusion_heads=shape.get("num_heads", backbone["num_heads"]),
            fusion_mlp_ratio=float(shape.get("mlp_ratio", 4)),
            neck=tuple(neck["out_dims"]),
            head=state["head.seg_conv.weight"].shape[1],
            radius=params.get("norm_radius", 5),
            mean=tuple(mean),
            std=tuple(std),
        )
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise CheckpointError(
            f"The released checkpoint's config lacks {error}; get the file again."
        ) from None
