"""A second SegNext, written from the paper's description: plain, slow and in float64.

It checks shapes for which there is no fixture of the reference network. It shares no code with
``model``: attention matrices are built, windows are loops, and nothing is rearranged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Click = tuple[int, int, int]  # 1 or 0, row, col


@dataclass(frozen=True)
class Shape:
    """A network in the authors' format; ``extra`` goes into its config as it is."""

    size: int = 224
    dim: int = 24
    depth: int = 2
    heads: int = 3
    freq: int | None = None
    mlp_ratio: float = 2.0
    fusion: str = "naive"
    fusion_depth: int = 0
    fusion_heads: int = 2
    fusion_bias: bool = True
    neck: tuple[int, int, int, int] = (6, 14, 10, 20)
    head: int = 7
    radius: int = 5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    backbone_bias: bool = True
    extra: dict[str, dict[str, Any]] = field(default_factory=dict)


def checkpoint(shape: Shape, seed: int = 0) -> dict[str, Any]:
    """What ``torch.save`` puts into a released file, with random weights."""
    s = shape
    backbone = {"img_size": (s.size, s.size), "patch_size": (16, 16), "in_chans": 3}
    backbone |= {"embed_dim": s.dim, "depth": s.depth, "num_heads": s.heads}
    backbone |= {"mlp_ratio": s.mlp_ratio, "qkv_bias": s.backbone_bias}
    if s.freq is not None:
        backbone["global_atten_freq"] = s.freq
    head = {"in_channels": list(s.neck), "in_select_index": [0, 1, 2, 3], "dropout_ratio": 0.1}
    head |= {"num_classes": 1, "out_channels": s.head}
    fusion: dict[str, Any] = {"type": s.fusion}
    if s.fusion_depth:
        block = {"dim": s.dim, "num_heads": s.fusion_heads, "mlp_ratio": s.mlp_ratio}
        fusion |= {"depth": s.fusion_depth, "params": block | {"qkv_bias": s.fusion_bias}}
    elif s.fusion == "self_attention":
        fusion["depth"] = 0
    values = {
        "backbone_params": backbone,
        "neck_params": {"in_dim": s.dim, "out_dims": list(s.neck)},
        "head_params": head,
        "fusion_params": fusion,
        "use_disks": True,
        "norm_radius": s.radius,
        "cpu_dist_maps": False,
        "norm_mean_std": (list(s.mean), list(s.std)),
    }
    for group, changes in s.extra.items():
        values[group] = values[group] | changes
    params = {k: {"type": "builtin", "value": v, "specified": True} for k, v in values.items()}
    config = {"class": "isegm.model.is_plainvit_model.PlainVitModel", "params": params}
    return {"state_dict": weights(shape, seed), "config": config}


def weights(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Random weights, float32, by the names of a released file."""
    random = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def tensor(name: str, *sizes: int, scale: float = 0.1, mean: float = 0.0) -> None:
        state[name] = torch.randn(*sizes, generator=random) * scale + mean

    def layer(name: str, *sizes: int, outputs: int | None = None, bias: bool = True) -> None:
        tensor(f"{name}.weight", *sizes, scale=1 / math.sqrt(math.prod(sizes[1:])))
        if bias:
            tensor(f"{name}.bias", sizes[0] if outputs is None else outputs)

    def norm(name: str, channels: int) -> None:
        tensor(f"{name}.weight", channels, mean=1.0)
        tensor(f"{name}.bias", channels)

    def blocks(name: str, depth: int, bias: bool) -> None:
        hidden = int(c * shape.mlp_ratio)
        for i in range(depth):
            norm(f"{name}.{i}.norm1", c)
            norm(f"{name}.{i}.norm2", c)
            layer(f"{name}.{i}.attn.qkv", 3 * c, c, bias=bias)
            layer(f"{name}.{i}.attn.proj", c, c)
            layer(f"{name}.{i}.mlp.fc1", hidden, c)
            layer(f"{name}.{i}.mlp.fc2", c, hidden)

    c, (a, b, d, e) = shape.dim, shape.neck
    tensor("backbone.pos_embed", 1, (shape.size // 16) ** 2 + 1, c)
    layer("backbone.patch_embed.proj", c, 3, 16, 16)
    blocks("backbone.blocks", shape.depth, shape.backbone_bias)
    norm("backbone.fc_norm", c)
    layer("visual_prompts_encoder.proj", c, 3, 16, 16)
    state["visual_prompts_encoder.proj.weight"] *= 10  # a disk covers few of its pixels
    blocks("fusion_blocks", shape.fusion_depth, shape.fusion_bias)
    wide, middle, deep = max(2 * a, c // 2), max(b, c // 2), max(e, 2 * c)
    layer("neck.down_4.0", c, wide, 2, 2, outputs=wide)
    norm("neck.down_4.1", wide)
    layer("neck.down_4.3", wide, wide // 2, 2, 2, outputs=wide // 2)
    norm("neck.down_4.4", wide // 2)
    layer("neck.down_4.5", a, wide // 2, 1, 1)
    norm("neck.down_4.6", a)
    layer("neck.down_8.0", c, middle, 2, 2, outputs=middle)
    norm("neck.down_8.1", middle)
    layer("neck.down_8.2", b, middle, 1, 1)
    norm("neck.down_8.3", b)
    layer("neck.down_16.0", d, c, 1, 1)
    norm("neck.down_16.1", d)
    layer("neck.down_32.0", deep, c, 2, 2)
    norm("neck.down_32.1", deep)
    layer("neck.down_32.2", e, deep, 1, 1)
    norm("neck.down_32.3", e)
    for i, channels in enumerate(shape.neck):
        layer(f"head.convs.{i}.conv", shape.head, channels, 1, 1)
    layer("head.fusion_conv.conv", shape.head, 4 * shape.head, 1, 1)
    layer("head.seg_conv", 1, shape.head, 1, 1)
    state["head.seg_conv.weight"] *= 4  # probabilities away from a half, where errors show
    return state


def fixture(
    shape: Shape, seed: int, images: dict[str, tuple[npt.NDArray[np.uint8], list[Click]]]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a parity fixture for ``checkpoint(shape, seed)``."""
    network = Plain(shape, weights(shape, seed))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for size, (image, clicks) in images.items():
        arrays[f"{size}/image"] = image
        arrays[f"{size}/clicks_positive_row_col"] = np.array(clicks, np.int64).reshape(-1, 3)
        arrays |= {f"{size}/{name}": each for name, each in network.answers(image, clicks).items()}
    return arrays


class Plain:
    """The network, computed as the paper describes it."""

    def __init__(self, shape: Shape, state: dict[str, Tensor]) -> None:
        self.shape = shape
        self.w = {name: tensor.double() for name, tensor in state.items()}

    def answers(
        self, image: npt.NDArray[np.uint8], clicks: list[Click]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """The features, and the probabilities after each click."""
        features = self.encode(image)
        arrays = {"image_feats": features.float().numpy()}
        previous = torch.zeros(image.shape[:2], dtype=torch.float64)
        for k in range(1, len(clicks) + 1):
            previous = self.decode(features, clicks[:k], previous)
            arrays[f"prob_after_{k}_clicks"] = previous.float().numpy()
        return arrays

    def encode(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 ``[H, W, 3]`` -> ``[1, C, G, G]``."""
        s, grid = self.shape, self.shape.size // 16
        x = torch.from_numpy(image).double() / 255
        x = (x - torch.tensor(s.mean).double()) / torch.tensor(s.std).double()
        x = _bilinear(x.permute(2, 0, 1)[None], s.size, s.size)
        x = self._conv("backbone.patch_embed.proj", x, 16)[0].flatten(1).T
        x = x + self.w["backbone.pos_embed"][0, 1:]
        for i in range(1, s.depth + 1):
            name = f"backbone.blocks.{i - 1}"
            freq = s.freq or 0
            if freq <= 1 or i % freq == 0 or i == s.depth:
                x = self._block(name, x, s.heads, 1e-6)
                continue
            square, side = x.view(grid, grid, -1).clone(), grid // (grid // 14)
            for top in range(0, grid, side):
                for left in range(0, grid, side):
                    tile = square[top : top + side, left : left + side]
                    inside = self._block(name, tile.flatten(0, 1), s.heads, 1e-6)
                    square[top : top + side, left : left + side] = inside.view(tile.shape)
            x = square.flatten(0, 1)
        return x.T.reshape(1, -1, grid, grid)

    def decode(self, features: Tensor, clicks: list[Click], previous: Tensor) -> Tensor:
        """Probabilities ``[H, W]`` after these clicks, on top of the previous ones."""
        s, (height, width) = self.shape, previous.shape
        prompt = torch.zeros(3, s.size, s.size, dtype=torch.float64)
        prompt[0] = _bilinear(previous[None, None], s.size, s.size)
        rows, cols = torch.meshgrid(torch.arange(s.size), torch.arange(s.size), indexing="ij")
        for positive, row, col in clicks:
            # The reference network keeps clicks in a tensor of integers, so it scales in float32.
            r, c = (
                int(torch.tensor(at) * (s.size / of) + 0.5)
                for at, of in ((row, height), (col, width))
            )
            prompt[1 if positive else 2][(rows - r) ** 2 + (cols - c) ** 2 <= s.radius**2] = 1
        fused = features + self._conv("visual_prompts_encoder.proj", prompt[None], 16)
        tokens = fused[0].flatten(1).T
        for i in range(s.fusion_depth):
            tokens = self._block(f"fusion_blocks.{i}", tokens, s.fusion_heads, 1e-5)
        fused = tokens.T.reshape(fused.shape)

        quarter = _gelu(self._norm("neck.down_4.1", self._up("neck.down_4.0", fused)))
        quarter = self._norm("neck.down_4.4", self._up("neck.down_4.3", quarter))
        quarter = _gelu(self._norm("neck.down_4.6", self._conv("neck.down_4.5", quarter)))
        eighth = self._norm("neck.down_8.1", self._up("neck.down_8.0", fused))
        eighth = _gelu(self._norm("neck.down_8.3", self._conv("neck.down_8.2", eighth)))
        same = _gelu(self._norm("neck.down_16.1", self._conv("neck.down_16.0", fused)))
        half = self._norm("neck.down_32.1", self._conv("neck.down_32.0", fused, 2))
        half = _gelu(self._norm("neck.down_32.3", self._conv("neck.down_32.2", half)))

        maps = [
            _bilinear(self._conv(f"head.convs.{i}.conv", each).clamp_min(0), *quarter.shape[2:])
            for i, each in enumerate((quarter, eighth, same, half))
        ]
        joined = self._conv("head.fusion_conv.conv", torch.cat(maps, 1)).clamp_min(0)
        logits = self._conv("head.seg_conv", joined)
        logits = F.interpolate(logits, (s.size, s.size), mode="bilinear", align_corners=True)
        return 1 / (1 + torch.exp(-_bilinear(logits, height, width)[0, 0]))

    def _block(self, name: str, x: Tensor, heads: int, eps: float) -> Tensor:
        """``[N, C]`` -> ``[N, C]``."""
        query, key, value = self._linear(
            f"{name}.attn.qkv", self._layer_norm(f"{name}.norm1", x, eps)
        ).chunk(3, 1)
        width = x.shape[1] // heads
        mixed = []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = query[:, part] @ key[:, part].T / math.sqrt(width)
            mixed.append(scores.softmax(1) @ value[:, part])
        x = x + self._linear(f"{name}.attn.proj", torch.cat(mixed, 1))
        hidden = self._linear(f"{name}.mlp.fc1", self._layer_norm(f"{name}.norm2", x, eps))
        return x + self._linear(f"{name}.mlp.fc2", _gelu(hidden))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        out = x @ self.w[f"{name}.weight"].T
        bias = self.w.get(f"{name}.bias")
        return out if bias is None else out + bias

    def _layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        unit = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
        return unit * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        """One mean and one deviation over all channels and places, ``[1, C, h, w]``."""
        unit = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
        weight, bias = self.w[f"{name}.weight"], self.w[f"{name}.bias"]
        return unit * weight[:, None, None] + bias[:, None, None]

    def _conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], stride)

    def _up(self, name: str, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], 2)


def _gelu(x: Tensor) -> Tensor:
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def _bilinear(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
