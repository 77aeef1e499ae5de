"""Turns the config inside a released checkpoint into ours.

A field is refused when it changes what is computed and our network cannot do the same: wrong masks
without a warning are worse than no masks. Fields left out have the reference network's defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeGuard

import torch
from torch import Tensor

from model.network.config import PATCH, SegNextConfig

CLASS = "PlainVitModel"
WINDOW = 224  # side in pixels of the images that the released encoder was pretrained on


class UnfitError(Exception):
    """Why a file cannot be used, as words that follow the file's name in a sentence."""


def read_config(config: Any, state: dict[str, Tensor]) -> SegNextConfig:
    """Our config for the file's own.

    Args:
        config: as the file holds it.
        state: the weights by name. Zeros are added to it for biases that the file's shape lacks and
            ours has.

    Raises:
        UnfitError: a field is missing, of the wrong kind, or asks for what ours cannot do.
        CheckpointError: the numbers are out of range or do not fit each other.
    """
    name, params = _params(config)
    if name.rpartition(".")[2] != CLASS:
        raise UnfitError(f"is of the class {_short(name)}, not a SegNext {CLASS}")
    radius = params.whole("norm_radius", 5)
    params.must_be("use_disks", True, False)
    params.ignore("cpu_dist_maps")  # where the disks are computed, not how
    mean, std = params.mean_std()

    backbone = params.group("backbone_params")
    size = backbone.square("img_size", WINDOW)
    if backbone.square("patch_size", PATCH) != PATCH:
        raise UnfitError(f"has patches of another size than {PATCH} pixels")
    dim = backbone.whole("embed_dim", 768)
    depth = backbone.whole("depth", 12)
    heads = backbone.whole("num_heads", 12)
    mlp_ratio = backbone.number("mlp_ratio", 4.0)
    window_freq = backbone.whole("global_atten_freq", 1)
    has_bias = backbone.flag("qkv_bias", True)
    backbone.must_be("in_chans", 3, 3)
    backbone.must_be("norm_layer", None, None)
    backbone.must_be("act_layer", None, None)
    backbone.ignore("pos_drop_rate", "attn_drop_rate", "proj_drop_rate")  # in training only
    backbone.done()

    neck = params.group("neck_params")
    outputs = neck.wholes("out_dims", SegNextConfig.neck)
    if len(outputs) != 4:
        raise UnfitError("has a neck of another number of maps than four")
    neck.must_be("in_dim", dim, 768)
    neck.done()

    head = params.group("head_params")
    width = head.whole("out_channels")
    dropout = head.number("dropout_ratio", 0.0)
    if head.wholes("in_channels", outputs) != outputs:
        raise UnfitError("has a head that does not fit its neck")
    if head.wholes("in_select_index", (0, 1, 2, 3)) != (0, 1, 2, 3):
        raise UnfitError("has a head that does not take the neck's maps as they come")
    head.must_be("num_classes", 1, 1)
    head.must_be("interpolate_mode", "bilinear", "bilinear")
    head.must_be("align_corners", False, False)
    head.done()

    fusion = params.group("fusion_params")
    kind = fusion.text("type")
    fusion_depth, fusion_heads, fusion_mlp_ratio, fusion_has_bias = 0, heads, 4.0, True
    if kind == "self_attention":
        fusion_depth = fusion.whole("depth")
        if fusion_depth:
            block = fusion.group("params")
            fusion_heads = block.whole("num_heads")
            fusion_mlp_ratio = block.number("mlp_ratio", 4.0)
            fusion_has_bias = block.flag("qkv_bias", False)
            block.must_be("dim", dim)
            block.ignore("mlp_drop", "attn_drop", "proj_drop")  # in training only
            block.done()
    elif kind != "naive":
        raise UnfitError(f"mixes image and prompt by {_short(kind)}, not naive or self_attention")
    if not fusion_depth:
        fusion.ignore("depth", "params")  # of blocks that do not exist
    fusion.done()
    params.done()

    result = SegNextConfig(
        encoder="vit",
        size=size,
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_ratio=mlp_ratio,
        window_freq=window_freq,
        pretrain_grid=WINDOW // PATCH,
        fusion="naive" if kind == "naive" else "self_attention",
        fusion_depth=fusion_depth,
        fusion_heads=fusion_heads,
        fusion_mlp_ratio=fusion_mlp_ratio,
        neck=(outputs[0], outputs[1], outputs[2], outputs[3]),
        head=width,
        dropout=dropout,
        radius=radius,
        mean=mean,
        std=std,
    )
    if not has_bias:
        _add_biases(state, "backbone.blocks", depth, dim)
    if not fusion_has_bias:
        _add_biases(state, "fusion_blocks", fusion_depth, dim)
    return result


def _params(config: Any) -> tuple[str, _Group]:
    entries = config.get("params") if isinstance(config, Mapping) else None
    name = config.get("class") if isinstance(config, Mapping) else None
    if not isinstance(entries, Mapping) or not isinstance(name, str):
        raise UnfitError("has a config without a class and params")
    values = {}
    for key, entry in entries.items():
        if not isinstance(entry, Mapping) or "value" not in entry:
            raise UnfitError(f"has a config whose {_short(key)} has no value")
        values[key] = entry["value"]
    return name, _Group("config", values)


def _add_biases(state: dict[str, Tensor], blocks: str, depth: int, dim: int) -> None:
    """Add biases of zeros: our attention always has a bias, and zeros change nothing."""
    for index in range(depth):
        name = f"{blocks}.{index}.attn.qkv.bias"
        if name in state:
            raise UnfitError(f"has a config without the bias {name} that it holds")
        state[name] = torch.zeros(3 * dim)


class _Group:
    """Named values of the config. Each can be taken once; ``done`` refuses those left over.

    The methods that take a value refuse one of the wrong kind; see ``UnfitError``.
    """

    def __init__(self, name: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise UnfitError(f"has a config whose {name} is no group of values")
        self._name = name
        self._left = dict(values)

    def take(self, key: str, *default: Any) -> Any:
        """The value of ``key``; the default where it is missing and one is given."""
        if key not in self._left and not default:
            raise UnfitError(f"has a config whose {self._name} lacks {key}")
        return self._left.pop(key, *default)

    def group(self, key: str) -> _Group:
        """A group of values inside this one."""
        return _Group(key, self.take(key))

    def whole(self, key: str, *default: int) -> int:
        value = self.take(key, *default)
        return value if _is_whole(value) else self._refuse(key, value)

    def wholes(self, key: str, *default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.take(key, *default)
        if isinstance(value, tuple | list) and len(value) <= 16 and all(map(_is_whole, value)):
            return tuple(value)
        return self._refuse(key, value)

    def square(self, key: str, default: int) -> int:
        """A side in pixels, given as one number or as two equal ones."""
        value = self.take(key, default)
        sides = value if isinstance(value, tuple | list) else (value, value)
        if len(sides) != 2 or not all(map(_is_whole, sides)) or sides[0] != sides[1]:
            self._refuse(key, value)
        side: int = sides[0]
        return side

    def number(self, key: str, *default: float) -> float:
        value = self.take(key, *default)
        return float(value) if _is_number(value) else self._refuse(key, value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.take(key, default)
        return value if isinstance(value, bool) else self._refuse(key, value)

    def text(self, key: str) -> str:
        value = self.take(key)
        return value if isinstance(value, str) else self._refuse(key, value)

    def must_be(self, key: str, wanted: Any, *default: Any) -> None:
        """Refuse every value but the one that our network can follow."""
        value = self.take(key, *default)
        if type(value) is not type(wanted) or value != wanted:
            self._refuse(key, value)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the three channels of the network's input."""
        key = "norm_mean_std"
        value = self.take(key, (SegNextConfig.mean, SegNextConfig.std))
        if (
            isinstance(value, tuple | list)
            and len(value) == 2
            and all(isinstance(part, tuple | list) and len(part) == 3 for part in value)
            and all(_is_number(number) for part in value for number in part)
        ):
            mean, std = (tuple(map(float, part)) for part in value)
            return mean, std
        return self._refuse(key, value)

    def ignore(self, *keys: str) -> None:
        """Accept any value of fields that do not change an answer."""
        for key in keys:
            self._left.pop(key, None)

    def done(self) -> None:
        """Refuse fields that nothing has taken: they might change what is computed."""
        for key in self._left:
            raise UnfitError(
                f"has a config whose {self._name} says {_short(key)}, which means nothing here"
            )

    def _refuse(self, key: str, value: Any) -> NoReturn:
        raise UnfitError(
            f"has a config whose {self._name} says {key}={_short(value)}, which ours cannot do"
        )


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6


def _short(value: Any) -> str:
    """A value of the file, short enough for a message whatever it is."""
    if isinstance(value, int) and abs(value) >= 10**18:
        return "a number out of all bounds"
    plain = value is None or isinstance(value, str | int | float)
    return repr(value[:60] if isinstance(value, str) else value) if plain else type(value).__name__
