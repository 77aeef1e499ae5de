"""From image features and a prompt map to mask logits: prompt encoder, dense fusion, neck and head.

The parameters have the names that the released checkpoints use (``model.checkpoints.released``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.block import Block
from model.network.cnn import SKIP_CHANNELS
from model.network.config import PATCH, SegNextConfig

STRIP = 2**13  # pixels at stride 4 whose features are computed at a time
LIKENESS_WIDTH = 64  # channels in which tokens are compared


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, channels)


class PromptEncoder(nn.Module):
    """One convolution over the patches of the prompt map; see ``forward``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, prompt: Tensor) -> Tensor:
        """Prompt map ``[B, 3, H, W]`` in [0, 1] -> ``[B, C, H/16, W/16]``."""
        if _answering(prompt):
            return self._touched(prompt)
        out: Tensor = self.proj(prompt)
        return out

    def _touched(self, prompt: Tensor) -> Tensor:
        """The same convolution of ``[B, 3, H, W]``, computed only for patches in which something is
        drawn, channel by channel; the result of every other patch is the bias."""
        touched = F.max_pool2d(prompt.abs(), PATCH) > 0
        batch, _, rows, cols = touched.shape
        tiled = prompt[:, :, : rows * PATCH, : cols * PATCH]  # whole patches only
        patches = tiled.unflatten(3, (cols, PATCH)).unflatten(2, (rows, PATCH)).transpose(3, 4)
        assert self.proj.bias is not None
        out = self.proj.bias.expand(batch, rows, cols, -1).contiguous()
        for channel, weight in enumerate(self.proj.weight.unbind(1)):
            where = touched[:, channel].nonzero(as_tuple=True)
            out[where] += patches[:, channel][where].flatten(1) @ weight.flatten(1).T
        return out.permute(0, 3, 1, 2)


class Neck(nn.Module):
    """Four maps from the fused one; see ``forward``."""

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
        """``[B, C, h, w]`` at stride 16 -> maps at strides 4, 8, 16 and 32: ``[B, c4, 4h, 4w]``,
        ``[B, c8, 2h, 2w]``, ``[B, c16, h, w]`` and ``[B, c32, h/2, w/2]``."""
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
        """``[B, inputs, h, w]`` -> ``[B, outputs, h, w]``."""
        return F.relu(self.conv(x), inplace=True)


class Head(nn.Module):
    """Joins the neck's maps to features, and turns these into logits, both at stride 4."""

    def __init__(self, inputs: tuple[int, ...], width: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvRelu(channels, width) for channels in inputs)
        self.fusion_conv = ConvRelu(width * len(inputs), width)
        self.dropout = nn.Dropout2d(dropout)
        self.seg_conv = nn.Conv2d(width, 1, 1)

    def features(self, maps: list[Tensor]) -> Tensor:
        """The fused features ``[B, head, H/4, W/4]`` of the neck's four maps.

        The fusing 1x1 convolution and bilinear up-sampling are both linear. So each map is
        multiplied by its slice of the weights at its own resolution, and the results are added
        after up-sampling: the same numbers for about a third of the work.
        """
        return self._fused(maps[0], self._coarse(maps), 0, maps[0].shape[2])

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The neck's four maps -> logits ``[B, 1, H/4, W/4]``."""
        fine, coarse = maps[0], self._coarse(maps)
        height, width = fine.shape[-2:]
        # At stride 4 the features are the decoder's largest tensors, and only one number for each
        # pixel is wanted. So they are computed in strips that stay in a core's cache, where the
        # maps can be cut into strips.
        rows = height
        if _answering(fine) and all(height % part.shape[2] == 0 for part in coarse):
            rows = max(STRIP // width, 1)
        strips = [
            self.seg_conv(self.dropout(self._fused(fine, coarse, top, min(top + rows, height))))
            for top in range(0, height, rows)
        ]
        return torch.cat(strips, 2)

    def _coarse(self, maps: list[Tensor]) -> list[Tensor]:
        """All maps but the finest, each multiplied by its slice of the fusing convolution:
        ``[B, head, h, w]`` each, at their own strides."""
        weights = self.fusion_conv.conv.weight.chunk(len(maps), dim=1)
        parts = zip(self.convs[1:], maps[1:], weights[1:], strict=True)
        return [F.conv2d(conv(each), weight) for conv, each, weight in parts]

    def _fused(self, fine: Tensor, coarse: list[Tensor], top: int, bottom: int) -> Tensor:
        """Rows ``top`` to ``bottom`` (half open) of the fused features.

        Args:
            fine: the finest map of the neck, ``[B, c4, H/4, W/4]``.
            coarse: as ``_coarse`` gives them.
        """
        fusing = self.fusion_conv.conv
        weight = fusing.weight.chunk(len(self.convs), dim=1)[0]
        total = F.conv2d(self.convs[0](fine[:, :, top:bottom]), weight, fusing.bias)
        for part in coarse:
            total += _enlarged(part, (fine.shape[2], fine.shape[3]), top, bottom)
        return F.relu(total, inplace=True)


def _enlarged(part: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows ``top`` to ``bottom`` (half open) of a map ``[B, c, h, w]`` enlarged to ``size``.

    Bilinear. A part of the rows is asked for only where the height is a multiple of the map's. Then
    it equals those rows of the whole, bit for bit, because each row depends only on the nearest
    rows of the map, one more on either side, at the same fractions.
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
    """Whether clicks are being answered on a CPU.

    Only then may the work depend on the values and be cut into pieces. Training, accelerators,
    compilers and exports need it whole.
    """
    eager = torch.is_inference_mode_enabled() and not torch.compiler.is_compiling()
    return eager and tensor.device.type == "cpu"


class Similarity(nn.Module):
    """How much each token resembles the prompted ones, as a dense map that the fusion can read.

    Five numbers for each token: its cosine similarity to the tokens under the positive and under
    the negative prompts, the largest and the mean, and the mean for the previous mask.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(dim, LIKENESS_WIDTH, 1)
        self.out = nn.Conv2d(5, dim, 1)

    def forward(self, features: Tensor, prompt: Tensor) -> Tensor:
        """Features ``[B, C, h, w]`` and the prompt map ``[B, 3, 16h, 16w]`` -> ``[B, C, h, w]``.
        Features ``[1, C, h, w]`` serve all prompts on one image."""
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
    """Sharpens the logits at stride 4 by the skips and the prompt map. The released shape has no
    such part."""

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
        """Logits ``[B, 1, H/4, W/4]`` to add to the head's.

        Args:
            features: of the head, ``[B, head, H/4, W/4]``.
            skips: ``[B, 24, H/4, W/4]`` and ``[B, 32, H/8, W/8]``; or of one image, ``[1, ...]``.
            prompt: the prompt map, ``[B, 3, H, W]``.
        """
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
        """``[B, C, h, w]`` -> ``[B, C, h, w]``."""
        batch, dim, rows, cols = fused.shape
        tokens = fused.flatten(2).transpose(1, 2).contiguous()
        for block in self:
            tokens = block(tokens)
        return tokens.view(batch, rows, cols, dim).permute(0, 3, 1, 2)
