"""The network of ``model.network.segnext`` in float32 without optimisations: the baseline of
``bench.network``.

It uses the weights of a ``SegNext``; only the computation differs. Attention matrices are stored
completely, the head enlarges its maps and joins them before the fusing convolution, the prompt map
is multiplied at every place, and the answer is a full-size map of probabilities.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.embedding import Embedding
from model.network.prompts import Prompt
from model.network.rasterise import prompt_map
from model.network.segnext import SegNext
from model.network.vit import ViTEncoder


@torch.inference_mode()
def encode(model: SegNext, image: npt.NDArray[np.uint8]) -> Embedding:
    """``SegNext.encode`` for a network with the ViT encoder; ``image`` is uint8 ``[H, W, 3]``."""
    encoder = model.backbone
    assert isinstance(encoder, ViTEncoder)
    tokens = encoder.patch_embed(model.preprocess(image)[None]) + encoder.pos_embed[:, 1:]
    for each, is_global in zip(encoder.blocks, encoder.is_global, strict=True):
        windows = 1 if is_global else encoder.windows
        tokens = _joined(block(each, _tiles(tokens, windows)), windows)
    features = _map(tokens, model.config.size // 16, model.config.size // 16)
    return Embedding(features[0], (), (image.shape[0], image.shape[1]))


@torch.inference_mode()
def decode(model: SegNext, embedding: Embedding, prompt: Prompt) -> npt.NDArray[np.float32]:
    """Full-size probabilities, float32 ``[H, W]``, for one prompt of any kind except text."""
    size = model.input_size(embedding.image_size)
    shown = prompt_map(prompt, embedding.image_size, size, model.config.radius)[None]
    features = embedding.features.float()[None]
    skips = tuple(skip.float()[None] for skip in embedding.skips)
    fused = features + model.visual_prompts_encoder.proj(shown)
    if model.similarity is not None:
        fused = fused + model.similarity(features, shown)
    tokens = fused.flatten(2).transpose(1, 2)
    for each in model.fusion_blocks:
        tokens = block(each, tokens)
    fused = _map(tokens, *fused.shape[-2:])
    neck = model.neck
    maps = [part(fused) for part in (neck.down_4, neck.down_8, neck.down_16, neck.down_32)]
    joined = torch.cat(
        [
            F.interpolate(conv(each), maps[0].shape[-2:], mode="bilinear", align_corners=False)
            for conv, each in zip(model.head.convs, maps, strict=True)
        ],
        1,
    )
    shared = model.head.fusion_conv(joined)
    logits = model.head.seg_conv(shared)
    if model.detail is not None:
        logits = logits + model.detail(shared, skips, shown)
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=True)
    logits = F.interpolate(logits, embedding.image_size, mode="bilinear", align_corners=False)
    probability: npt.NDArray[np.float32] = logits[0, 0].sigmoid().numpy()
    return probability


def block(each: Any, tokens: Tensor) -> Tensor:
    """One of timm's transformer blocks, with its attention matrix stored completely."""
    tokens = tokens + _attention(each.attn, each.norm1(tokens))
    out: Tensor = tokens + each.mlp(each.norm2(tokens))
    return out


def _attention(attention: Any, tokens: Tensor) -> Tensor:
    """``[B, N, C]`` -> ``[B, N, C]``."""
    batch, n, dim = tokens.shape
    qkv = attention.qkv(tokens).view(batch, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    weights = (query * attention.scale @ key.transpose(-2, -1)).softmax(-1)
    out: Tensor = attention.proj((weights @ value).transpose(1, 2).reshape(batch, n, dim))
    return out


def _map(tokens: Tensor, rows: int, cols: int) -> Tensor:
    """``[B, N, C]`` -> ``[B, C, rows, cols]``."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], -1, rows, cols).contiguous()


def _tiles(tokens: Tensor, windows: int) -> Tensor:
    """Tokens of a grid, ``[B, N, C]`` -> those of each window, ``[B * windows ** 2, n, C]``."""
    batch, n, dim = tokens.shape
    side = int(n**0.5) // windows
    tiles = tokens.view(batch, windows, side, windows, side, dim).transpose(2, 3)
    return tiles.reshape(batch * windows**2, side**2, dim)


def _joined(tiles: Tensor, windows: int) -> Tensor:
    """The inverse of ``_tiles``."""
    dim, side = tiles.shape[-1], int(tiles.shape[1] ** 0.5)
    tokens = tiles.view(-1, windows, windows, side, side, dim).transpose(2, 3)
    return tokens.reshape(-1, (windows * side) ** 2, dim)
