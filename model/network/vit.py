"""The released SegNext image encoder: a plain ViT with windowed attention, on timm's blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.compat import ensure_torchvision
from model.errors import CheckpointError
from model.network.block import Block
from model.network.config import PATCH, SegNextConfig

ensure_torchvision()  # timm imports torchvision

from timm.layers.patch_embed import PatchEmbed  # noqa: E402


class ViTEncoder(nn.Module):
    """Patches, positions and transformer blocks; see ``forward``.

    Block i (from 1) attends over all tokens when ``i % window_freq == 0`` or it is the last one;
    the others attend inside windows, ``grid // pretrain_grid`` along each side.
    """

    def __init__(self, config: SegNextConfig) -> None:
        super().__init__()
        grid = config.size // PATCH
        self.windows = max(grid // config.pretrain_grid, 1)
        self.patch_embed = PatchEmbed(config.size, PATCH, embed_dim=config.dim)
        # Position 0 belongs to a class token that this network does not have; the released files
        # keep it.
        self.pos_embed = nn.Parameter(torch.zeros(1, grid * grid + 1, config.dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.is_global = [
            config.window_freq <= 1 or i % config.window_freq == 0 or i == config.depth
            for i in range(1, config.depth + 1)
        ]
        if grid % self.windows and not all(self.is_global):
            raise CheckpointError(
                "The network's windows do not tile its grid; get the checkpoint again."
            )

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Float ``[B, 3, L, L]``, normalised -> features ``[B, C, L/16, L/16]``, and no skips."""
        tokens = self.patch_embed(image) + self.pos_embed[:, 1:]
        batch, n, dim = tokens.shape
        grid = int(n**0.5)
        tokens = tokens.view(batch, grid, grid, dim)
        for block, is_global in zip(self.blocks, self.is_global, strict=True):
            if is_global or self.windows == 1:
                tokens = block(tokens.flatten(1, 2)).view(batch, grid, grid, dim)
            else:
                tokens = self._windowed(block, tokens)
        return tokens.permute(0, 3, 1, 2).contiguous(), ()

    def _windowed(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Apply a block inside each window: ``[B, grid, grid, C]`` -> the same shape."""
        batch, grid, _, dim = tokens.shape
        n, side = self.windows, grid // self.windows
        tiles = tokens.view(batch, n, side, n, side, dim).transpose(2, 3)
        tiles = block(tiles.reshape(batch * n * n, side * side, dim))
        tiles = tiles.view(batch, n, n, side, side, dim).transpose(2, 3)
        joined: Tensor = tiles.reshape(batch, grid, grid, dim)
        return joined
