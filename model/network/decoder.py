"""From image features and a prompt map to mask logits: prompt encoder, dense fusion, neck and head.

Names of the parameters are the released checkpoints' own (see ``model.checkpoints.files``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.block import Block
from model.network.cnn import SKIP_CHANNELS
from model.network.config import SegNextConfig

PATCH = 16
STRIP = 2**13  # pixels at stride 4 whose features are in work at a time


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels)


class PromptEncoder(nn.Module):
    """Prompt map ``[B, 3, H, W]`` -> ``[B, C, H/16, W/16]``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, prompt: Tensor) -> Tensor:
        if _answering(prompt):
            return self._touched(prompt)
        out: Tensor = self.proj(prompt)
        return out

    def _touched(self, prompt: Tensor) -> Tensor:
        """The convolution, from those patches of each channel that anything is drawn in; the others
        come out as the bias."""
        touched = F.max_pool2d(prompt.abs(), PATCH) > 0
        batch, _, rows, cols = touched.shape
        tiled = prompt[:, :, : rows * PATCH, : cols * PATCH]  # as the convolution, no part of one
        patches = tiled.unflatten(3, (cols, PATCH)).unflatten(2, (rows, PATCH)).transpose(3, 4)
        assert self.proj.bias is not None
        out = self.proj.bias.expand(batch, rows, cols, -1).contiguous()
        for channel, weight in enumerate(self.proj.weight.unbind(1)):
            where = touched[:, channel].nonzero(as_tuple=True)
            out[where] += patches[:, channel][where].flatten(1) @ weight.flatten(1).T
        return out.permute(0, 3, 1, 2)


class Neck(nn.Module):
    """Four maps from the fused one, at strides 4, 8, 16 and 32."""

    def __init__(self, dim: int, channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        c4, c8, c16, c32 = channels
        wide = max(2 * c4, dim // 2)
        self.down_4 = nn.Sequential(
            nn.ConvTranspose2d(dim, wide, 2, 2),
            _norm(wide),
            nn.GELU(),
            nn.ConvTranspose2d(wide, wide // 2, 2, 2),
            _norm(wide // 2),
            nn.Conv2d(wide // 2, c4, 1),
            _norm(c4),
            nn.GELU(),
        )
        middle = max(c8, dim // 2)
        self.down_8 = nn.Sequential(
            nn.ConvTranspose2d(dim, middle, 2, 2),
            _norm(middle),
            nn.Conv2d(middle, c8, 1),
            _norm(c8),
            nn.GELU(),
        )
        self.down_16 = nn.Sequential(nn.Conv2d(dim, c16, 1), _norm(c16), nn.GELU())
        deep = max(c32, 2 * dim)
        self.down_32 = nn.Sequential(
            nn.Conv2d(dim, deep, 2, 2), _norm(deep), nn.Conv2d(deep, c32, 1), _norm(c32), nn.GELU()
        )

    def forward(self, fused: Tensor) -> list[Tensor]:
        # Channels last, here and in the head: a 1x1 convolution is then one matrix product over
        # all pixels, with nothing copied before or after it.
        fused = fused.contiguous(memory_format=torch.channels_last)
        return [self.down_4(fused), self.down_8(fused), self.down_16(fused), self.down_32(fused)]


class ConvRelu(nn.Module):
    """1x1 convolution with bias, then ReLU; ``conv`` is the name in the released files."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x), inplace=True)


class Head(nn.Module):
    """Four maps -> features ``[B, head, H/4, W/4]`` -> logits ``[B, 1, H/4, W/4]``."""

    def __init__(self, inputs: tuple[int, ...], width: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvRelu(channels, width) for channels in inputs)
        self.fusion_conv = ConvRelu(width * len(inputs), width)
        self.dropout = nn.Dropout2d(dropout)
        self.seg_conv = nn.Conv2d(width, 1, 1)

    def features(self, maps: list[Tensor]) -> Tensor:
        """The fused features.

        The fusing 1x1 convolution is linear and so is bilinear up-sampling, so each map is
        multiplied by its slice of the weights at its own resolution and the results are added
        after up-sampling: the same numbers for about a third of the work.
        """
        return self._fused(maps[0], self._coarse(maps), 0, maps[0].shape[2])

    def forward(self, maps: list[Tensor]) -> Tensor:
        fine, coarse = maps[0], self._coarse(maps)
        height, width = fine.shape[-2:]
        # Strips that stay in a core's cache, where they can be cut: at stride 4 the features are
        # the decoder's largest tensors, and only one number a pixel is wanted of them.
        rows = height
        if _answering(fine) and all(height % part.shape[2] == 0 for part in coarse):
            rows = max(STRIP // width, 1)
        strips = [
            self.seg_conv(self.dropout(self._fused(fine, coarse, top, min(top + rows, height))))
            for top in range(0, height, rows)
        ]
        return torch.cat(strips, 2)

    def _coarse(self, maps: list[Tensor]) -> list[Tensor]:
        """All maps but the finest, each multiplied by its slice of the fusing convolution."""
        weights = self.fusion_conv.conv.weight.chunk(len(maps), dim=1)
        parts = zip(self.convs[1:], maps[1:], weights[1:], strict=True)
        return [F.conv2d(conv(each), weight) for conv, each, weight in parts]

    def _fused(self, fine: Tensor, coarse: list[Tensor], top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom`` of the fused features."""
        fusing = self.fusion_conv.conv
        weight = fusing.weight.chunk(len(self.convs), dim=1)[0]
        total = F.conv2d(self.convs[0](fine[:, :, top:bottom]), weight, fusing.bias)
        for part in coarse:
            total += _enlarged(part, (fine.shape[2], fine.shape[3]), top, bottom)
        return F.relu(total, inplace=True)


def _enlarged(part: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows ``top`` to ``bottom`` of a map enlarged to ``size``, bilinearly.

    Fewer than all only where the height is a multiple of the map's; they are the whole's to the
    bit, for they depend on one more row of the map on either side, at the same fractions.
    """
    if bottom - top == size[0]:
        return F.interpolate(part, size, mode="bilinear", align_corners=False)
    factor = size[0] // part.shape[2]
    first, last = max(top // factor - 1, 0), min(-(-bottom // factor) + 1, part.shape[2])
    grown = F.interpolate(
        part[:, :, first:last],
        ((last - first) * factor, size[1]),
        mode="bilinear",
        align_corners=False,
    )
    return grown[:, :, top - first * factor : bottom - first * factor]


def _answering(tensor: Tensor) -> bool:
    """Whether a CPU answers clicks: then work may depend on the numbers and be cut to pieces, which
    training, accelerators, compilers and exports want whole."""
    eager = torch.is_inference_mode_enabled() and not torch.compiler.is_compiling()
    return eager and tensor.device.type == "cpu"


class Similarity(nn.Module):
    """How like the prompted tokens each token is: cosine similarity to the tokens under the
    positive and the negative prompts (largest and mean), as a dense map the fusion can read."""

    def __init__(self, dim: int, width: int = 64) -> None:
        super().__init__()
        self.query = nn.Conv2d(dim, width, 1)
        self.out = nn.Conv2d(5, dim, 1)

    def forward(self, features: Tensor, prompt: Tensor) -> Tensor:
        rows, cols = features.shape[-2:]
        unit = F.normalize(self.query(features).flatten(2).float(), dim=1)  # [B, w, N]
        likeness = unit.transpose(1, 2) @ unit  # [B, N, N]
        weights = F.avg_pool2d(prompt, PATCH).flatten(2).float()  # [B, 3, N]
        previous, positive, negative = (
            weights @ likeness / weights.sum(2, keepdim=True).clamp_min(1e-6)
        ).unbind(1)
        nearest = [
            likeness.masked_fill(weights[:, channel, None] <= 0, -1.0).amax(2) for channel in (1, 2)
        ]
        maps = torch.stack([nearest[0], positive, nearest[1], negative, previous], 1)
        out: Tensor = self.out(maps.unflatten(2, (rows, cols)).to(features.dtype))
        return out


class Detail(nn.Module):
    """Sharpens the logits at stride 4 from the skips and the prompt map; the released shape has
    none."""

    def __init__(self, head: int, width: int) -> None:
        super().__init__()
        self.skip_4 = nn.Conv2d(SKIP_CHANNELS[0], width, 1)
        self.skip_8 = nn.Conv2d(SKIP_CHANNELS[1], width, 1)
        self.prompt = nn.Conv2d(3, width, 4, 4)
        self.head = nn.Conv2d(head, width, 1)
        self.mix = nn.Sequential(
            _norm(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            _norm(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, features: Tensor, skips: tuple[Tensor, ...], prompt: Tensor) -> Tensor:
        quarter, eighth = skips
        size = features.shape[-2:]
        image = self.skip_4(quarter) + F.interpolate(
            self.skip_8(eighth), size, mode="bilinear", align_corners=False
        )
        out: Tensor = self.mix(self.head(features) + image + self.prompt(prompt))
        return out


class Fusion(nn.ModuleList):
    """The self-attention blocks that mix image and prompt tokens; empty for ``naive``."""

    def __init__(self, config: SegNextConfig) -> None:
        depth = config.fusion_depth if config.fusion == "self_attention" else 0
        super().__init__(
            Block(config.dim, config.fusion_heads, config.fusion_mlp_ratio, eps=1e-5)
            for _ in range(depth)
        )

    def forward(self, fused: Tensor) -> Tensor:
        batch, dim, rows, cols = fused.shape
        tokens = fused.flatten(2).transpose(1, 2).contiguous()
        for block in self:
            tokens = block(tokens)
        return tokens.view(batch, rows, cols, dim).permute(0, 3, 1, 2)
