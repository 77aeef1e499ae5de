"""The transformer block of the encoders and of the fusion, on timm's."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from model.compat import ensure_torchvision

ensure_torchvision()  # timm imports torchvision

from timm.models.vision_transformer import Block as TimmBlock  # noqa: E402


class Block(TimmBlock):
    """Pre-norm self-attention and MLP over tokens ``[B, N, dim]``.

    ``lower`` puts the attention and the MLP into a lower precision. Only their products are
    computed in it: tokens, norms and sums keep the precision they come in, so errors do not pile up
    from block to block.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, eps: float = 1e-6) -> None:
        norm = partial(nn.LayerNorm, eps=eps)
        super().__init__(dim, heads, mlp_ratio, qkv_bias=True, norm_layer=norm)  # type: ignore[arg-type]
        self.dtype = torch.float32

    def lower(self, dtype: torch.dtype) -> None:
        """Cast the weights of the attention and the MLP, in place."""
        self.attn.to(dtype)
        self.mlp.to(dtype)
        self.dtype = dtype

    def forward(self, tokens: Tensor) -> Tensor:  # type: ignore[override]
        """``[B, N, dim]`` -> ``[B, N, dim]``, of the tokens' own type."""
        tokens = tokens + self.attn(self.norm1(tokens).to(self.dtype))
        out: Tensor = tokens + self.mlp(self.norm2(tokens).to(self.dtype))
        return out
