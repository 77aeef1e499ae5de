"""The small image encoder: MobileNetV2 features with a little global context, for CPUs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from model.compat import ensure_torchvision
from model.network.block import Block
from model.network.config import SegNextConfig

ensure_torchvision()  # timm imports torchvision

import timm  # noqa: E402

SKIP_CHANNELS = (24, 32)  # of MobileNetV2 at strides 4 and 8
LAST_CHANNELS = 320  # of MobileNetV2 at stride 16
LONGEST_WAVE = 200.0  # base of the positions' frequencies: far more rows than a grid here has


def grid_positions(rows: int, cols: int, dim: int) -> Tensor:
    """Fixed sine and cosine positions of a token grid, float32 ``[dim, rows, cols]``; ``dim`` must
    be a multiple of 4."""
    quarter = dim // 4
    frequency = torch.exp(-math.log(LONGEST_WAVE) * torch.arange(quarter) / quarter)
    row = torch.arange(rows)[:, None] * frequency
    col = torch.arange(cols)[:, None] * frequency
    row_part = torch.cat([row.sin(), row.cos()], 1)[:, None].expand(rows, cols, 2 * quarter)
    col_part = torch.cat([col.sin(), col.cos()], 1)[None].expand(rows, cols, 2 * quarter)
    return torch.cat([row_part, col_part], 2).permute(2, 0, 1)


class MobileNetEncoder(nn.Module):
    """The backbone of MobileNetV2, then context blocks over its coarsest map; see ``forward``.

    The backbone's batch norms stay in evaluation mode, because those of the warm start are folded
    into its convolutions.
    """

    def __init__(self, config: SegNextConfig) -> None:
        super().__init__()
        self.backbone = timm.create_model(
            "mobilenetv2_100",
            pretrained=False,
            features_only=True,
            output_stride=16,
            pad_type="same",
            out_indices=(1, 2, 4),
        )
        self.project = nn.Conv2d(LAST_CHANNELS, config.dim, 1)
        self.norm = nn.LayerNorm(config.dim)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )

    def train(self, mode: bool = True) -> MobileNetEncoder:
        """As in ``nn.Module``, except for the backbone's batch norms."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode images.

        Args:
            image: float ``[B, 3, H, W]``, normalised; H and W are multiples of 16.

        Returns:
            Features ``[B, C, H/16, W/16]``, and the skips ``[B, 24, H/4, W/4]`` and
            ``[B, 32, H/8, W/8]``.
        """
        # Channels last gives the same numbers in six sevenths of the time on a CPU.
        image = image.contiguous(memory_format=torch.channels_last)
        quarter, eighth, sixteenth = self.backbone(image)
        features = self.project(sixteenth)
        batch, dim, rows, cols = features.shape
        tokens = self.norm(features.flatten(2).transpose(1, 2))
        positions = grid_positions(rows, cols, dim).to(tokens)
        tokens = tokens + positions.flatten(1).T
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.transpose(1, 2).reshape(batch, dim, rows, cols), (quarter, eighth)
