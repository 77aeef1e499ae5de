"""Words as a prompt: a text becomes a vector, which asks the image where such objects are.

As SegNext describes it (arXiv 2404.00741): a CLIP text tower gives the vector, and cross-attention
blocks let it query the image embedding. The mask embedding that results becomes a dense map, which
is added where the visual prompts' map is added. The same decoder makes the mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.errors import CheckpointError
from model.network.config import SegNextConfig
from model.network.text_tower import PretrainedTower, SmallTower, pretrained_tower

WORDLESS = (
    "The serving model knows no words; click the object, or train a text branch with "
    "`maskloop train text`."
)
PROBE = "thing"  # this word's vector tells one tower's weights from another's
LEAST_COSINE = 0.999  # of two vectors of ``PROBE`` from the same weights
# Visual prompts reach the fused sum with numbers far from 0; small steps would not get there.
GAIN = 16


class CrossBlock(nn.Module):
    """The query attends over the image's tokens, then an MLP; both pre-norm and residual."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        hidden = int(dim * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """Query ``[B, 1, C]`` and tokens ``[B, N, C]`` -> ``[B, 1, C]``."""
        parts = (self.query(self.norm1(query)), *self.key_value(tokens).chunk(2, dim=2))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        query = query + self.proj(seen)
        out: Tensor = query + self.mlp(self.norm2(query))
        return out


class TextBranch(nn.Module):
    """Vectors of texts and image features -> a dense map to add to the fused sum.

    The small tower is part of it and is trained with it. A pretrained tower is not: its weights
    stay outside the checkpoint and are read when the first text is asked.
    """

    def __init__(self, config: SegNextConfig) -> None:
        super().__init__()
        dim = config.dim
        self.name = config.text_tower
        self.tower = SmallTower(config.text_dim) if self.name == "small" else None
        if self.tower is None:
            self.register_buffer("probe", torch.zeros(config.text_dim))
        self.project = nn.Linear(config.text_dim, dim)
        self.image_norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            CrossBlock(dim, config.fusion_heads, config.fusion_mlp_ratio)
            for _ in range(config.text_depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.mask_embedding = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.likeness = nn.Parameter(torch.tensor([5.0, -2.0]))  # scale and offset of the cosine
        self.out = nn.Linear(dim + 1, dim)
        self.everywhere = nn.Linear(dim, dim)
        # A new branch joins a network that is already trained, so at first it must change nothing.
        for layer in (self.out, self.everywhere):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def vectors(self, texts: Sequence[str | None]) -> Tensor:
        """Vectors of texts.

        Args:
            texts: n texts as typed; None: no text.

        Returns:
            float32 ``[n, text_dim]`` on the branch's device: vectors of length 1, zeros for None.

        Raises:
            CheckpointError: the pretrained tower's weights cannot be had, or are not those that the
                branch was trained with.
        """
        device = self.project.weight.device
        said = [text for text in texts if text is not None]
        out = torch.zeros(len(texts), self.project.in_features, device=device)
        if said:
            tower = self.tower or self._pretrained()
            rows = torch.tensor([text is not None for text in texts], device=device)
            out[rows] = tower(said).to(device)
        return out

    def remember_tower(self) -> None:
        """Remember which weights the pretrained tower has, so that others are refused later."""
        if self.tower is None:
            self.get_buffer("probe").copy_(pretrained_tower(self.name)([PROBE])[0])

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """The dense map that the texts add to the fused sum.

        Args:
            features: ``[B, C, h, w]``, the image embedding.
            text: ``[B, text_dim]``, from ``vectors``.

        Returns:
            ``[B, C, h, w]``; exactly zero for rows whose vector is zero.
        """
        embedding, keys, logits = self._ask(features, text)
        dense = self.out(torch.cat([keys * embedding, logits.sigmoid()], 2))
        said = (text != 0).any(1)[:, None, None]
        return _on_grid(GAIN * (dense + self.everywhere(embedding)) * said, features)

    def coarse(self, features: Tensor, text: Tensor) -> Tensor:
        """The branch's own guess of where the named objects are, before any decoding: logits
        ``[B, 1, h, w]``. Used in training. Arguments as in ``forward``."""
        return _on_grid(self._ask(features, text)[2], features)

    def _ask(self, features: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask embeddings ``[B, 1, C]``, the image's keys ``[B, N, C]``, and the logits
        ``[B, N, 1]`` that each token is meant, from how alike the two are."""
        text = text.to(features.dtype)
        tokens = self.image_norm(features.flatten(2).transpose(1, 2))
        query = self.project(text * math.sqrt(text.shape[1]))[:, None]
        for block in self.blocks:
            query = block(query, tokens)
        embedding = self.mask_embedding(self.norm(query))
        keys = self.key(tokens)
        scale, offset = self.likeness
        cosine = F.cosine_similarity(keys, embedding, dim=2)[..., None]
        return embedding, keys, scale * cosine + offset

    def _pretrained(self) -> PretrainedTower:
        tower, probe = pretrained_tower(self.name), self.get_buffer("probe").float().cpu()
        vector = tower.vector(PROBE)
        if vector.shape != probe.shape or (probe.any() and float(vector @ probe) < LEAST_COSINE):
            raise CheckpointError(
                f"The text tower {self.name} has other weights than the text branch was trained "
                "with; put the same file back, or train the branch again."
            )
        return tower


def _on_grid(tokens: Tensor, features: Tensor) -> Tensor:
    """``[B, N, C]`` -> ``[B, C, h, w]`` on the grid of ``features``."""
    out: Tensor = tokens.transpose(1, 2).unflatten(2, features.shape[-2:])
    return out
