"""Words as a prompt: a text becomes a vector, which asks the image where such things are.

As SegNext describes it (arXiv 2404.00741): a CLIP text tower gives the vector, cross-attention
blocks let it query the image embedding, and the mask embedding they end in becomes a dense map
that is added where the visual prompts' map is added. The same decoder makes the mask.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from model.compat import ensure_torchvision
from model.config import TEXT_HEADS, SegNextConfig
from model.errors import CheckpointError

TEMPLATE = "a photo of a {}."  # CLIP learned captions, not single words
# The small tower's shape is a part of every checkpoint that has one: other numbers, other files.
SMALL_DIM = 64
SMALL_LAYERS = 2
SMALL_CONTEXT = 24  # pieces of words; what is longer is cut
GAIN = 16  # prompts reach the fused sum with numbers far from 0, which small steps would not reach
PROBE = "thing"  # its vector tells one tower's weights from another's
SAFE = (".safetensors", ".bin", ".pt", ".pth")  # read as tensors only, by open_clip


class FixedWords(nn.Module):
    """The same random vector for a piece of a word in every process; not learned and not saved.

    A learned table would be most of a small network's file, for a few words that it ever saw.
    """

    def __init__(self, n: int, dim: int) -> None:
        super().__init__()
        # RandomState's numbers never change between versions of numpy; newer generators' may.
        table = np.random.RandomState(0).standard_normal((n, dim)).astype(np.float32)
        # The last two are the marks before and after a text. The vector is read at the second: with
        # numbers of its own there, all texts would look alike at first.
        table[-2:] = 0
        self.register_buffer("table", torch.from_numpy(table), persistent=False)

    def forward(self, pieces: Tensor) -> Tensor:
        return self.get_buffer("table")[pieces]


class SmallTower(nn.Module):
    """A text transformer small enough to be learned from the category names of one set."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.transformer = _open_clip().transformer.TextTransformer(
            context_length=SMALL_CONTEXT,
            width=dim,
            heads=TEXT_HEADS,
            layers=SMALL_LAYERS,
            output_dim=dim,
        )
        self.transformer.token_embedding = FixedWords(self.transformer.vocab_size, dim)

    def forward(self, texts: Sequence[str]) -> Tensor:
        tokens = _tokenizer()([_one_line(text) for text in texts], SMALL_CONTEXT)
        device = self.transformer.positional_embedding.device
        return F.normalize(self.transformer(tokens.to(device)).float(), dim=1)


class PretrainedTower:
    """The frozen text half of a CLIP model, on the CPU; remembers the texts it was asked last."""

    def __init__(self, name: str) -> None:
        model, weights = _split(name)
        self.tokenize, self.model = _load_clip(name, model, weights)
        self.vector = lru_cache(512)(self._vector)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self.vector(text) for text in texts])

    @torch.inference_mode()
    def _vector(self, text: str) -> Tensor:
        vector: Tensor = self.model.encode_text(
            self.tokenize([TEMPLATE.format(_one_line(text))]), normalize=True
        )
        return vector[0].float()


@lru_cache(2)
def pretrained_tower(name: str) -> PretrainedTower:
    """The tower called ``MODEL/TAG`` or ``MODEL:FILE``, read once in a process.

    Raises:
        CheckpointError: open_clip knows no such model or tag, or its weights cannot be had.
    """
    return PretrainedTower(name)


def tower_dim(name: str) -> int:
    """Length of the vectors of ``small`` or of a pretrained tower, without reading weights.

    Raises:
        CheckpointError: open_clip knows no such model or tag.
    """
    if name == "small":
        return SMALL_DIM
    model, weights = _split(name)
    if name == f"{model}/{weights}" and not _open_clip().get_pretrained_cfg(model, weights):
        known = _open_clip().list_pretrained_tags_by_model(model)
        raise CheckpointError(
            f"open_clip knows no weights {weights!r} of {model}; give one of: {', '.join(known)}."
        )
    return int(_open_clip().get_model_config(model)["embed_dim"])


@cache
def dictionary() -> tuple[str, ...]:
    """Some ten thousands of words that CLIP's tokenizer knows whole, in lower case."""
    whole = (piece.removesuffix("</w>") for piece in _tokenizer().encoder if piece[-4:] == "</w>")
    return tuple(
        sorted(word for word in whole if len(word) > 2 and word.isascii() and word.isalpha())
    )


class CrossBlock(nn.Module):
    """The query attends over the image's tokens, then an MLP; both before-normed and residual."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.heads = heads
        hidden = int(dim * mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """``[B, 1, C]`` and ``[B, N, C]`` -> ``[B, 1, C]``."""
        parts = (self.query(self.norm1(query)), *self.key_value(tokens).chunk(2, dim=2))
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        query = query + self.proj(seen)
        out: Tensor = query + self.mlp(self.norm2(query))
        return out


class TextBranch(nn.Module):
    """Vectors of texts and image features -> a dense map to add to the fused sum.

    The small tower is a part of it and trains along. A pretrained one is not: its weights stay
    outside the checkpoint and are read when the first text is asked.
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
        # A branch joins a network that is trained already: at first it must change nothing.
        for layer in (self.out, self.everywhere):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def vectors(self, texts: Sequence[str | None]) -> Tensor:
        """Vectors of texts.

        Args:
            texts: as typed; None: nothing was said.

        Returns:
            float32 ``[n, text_dim]`` of length 1, zeros for None, on the branch's device.

        Raises:
            CheckpointError: the pretrained tower cannot be had, or is not the one trained with.
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
        """Note which weights the pretrained tower has, so that others are refused later."""
        if self.tower is None:
            self.get_buffer("probe").copy_(pretrained_tower(self.name)([PROBE])[0])

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        """Ask the image.

        Args:
            features: ``[B, C, h, w]``, the image embedding.
            text: ``[B, text_dim]`` of ``vectors``.

        Returns:
            ``[B, C, h, w]``; exactly zero for rows whose vector is.
        """
        embedding, keys, logits = self._ask(features, text)
        dense = self.out(torch.cat([keys * embedding, logits.sigmoid()], 2))
        said = (text != 0).any(1)[:, None, None]
        return _on_grid(GAIN * (dense + self.everywhere(embedding)) * said, features)

    def coarse(self, features: Tensor, text: Tensor) -> Tensor:
        """What the branch itself takes for the named things, before any decoding: logits
        ``[B, 1, h, w]``, for training."""
        return _on_grid(self._ask(features, text)[2], features)

    def _ask(self, features: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mask embeddings ``[B, 1, C]``, the image's keys ``[B, N, C]``, and from how alike they
        are the logits ``[B, N, 1]`` of each token being meant."""
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
        if vector.shape != probe.shape or (probe.any() and float(vector @ probe) < 0.999):
            raise CheckpointError(
                f"The text tower {self.name} has other weights than the text branch was trained "
                "with; put the same file back, or train the branch again."
            )
        return tower


def _on_grid(tokens: Tensor, features: Tensor) -> Tensor:
    """``[B, N, C]`` -> ``[B, C, h, w]`` on the grid of ``features``."""
    out: Tensor = tokens.transpose(1, 2).unflatten(2, features.shape[-2:])
    return out


def _load_clip(name: str, model: str, weights: str) -> tuple[Any, Any]:
    """The tokenizer and the model without its image half."""
    open_clip = _open_clip()
    pretrained = (
        open_clip.get_pretrained_cfg(model, weights) if name == f"{model}/{weights}" else {}
    )
    try:
        path = open_clip.download_pretrained(pretrained) if pretrained else weights
        if not Path(path).is_file():
            raise FileNotFoundError(f"there is no file {path}")
        if Path(path).suffix not in SAFE:
            raise ValueError(f"it is none of {', '.join(SAFE)}")
        clip = open_clip.create_model(
            model, path, force_quick_gelu=bool(pretrained.get("quick_gelu")), weights_only=True
        )
        tokenize = open_clip.get_tokenizer(model)
    # What open_clip, torch, safetensors, huggingface_hub and transformers raise has no common root.
    except (
        *(ImportError, OSError, EOFError, RuntimeError, ValueError, TypeError, KeyError),
        *(AttributeError, StopIteration, pickle.UnpicklingError, SafetensorError),
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CheckpointError(
            f"The weights of the text tower {name} cannot be read ({reason}); let this machine "
            "reach the model hub once, or fill the hub's cache from another and set "
            "HF_HUB_OFFLINE=1, or train with MODEL:FILE and keep that file in its place."
        ) from None
    del clip.visual
    return tokenize, clip.eval().requires_grad_(False)


def _split(name: str) -> tuple[str, str]:
    """(model, tag or file) of a pretrained tower's name; the model is one that open_clip knows."""
    cut = min((name.find(mark) for mark in ":/" if mark in name), default=-1)
    model, weights = name[: max(cut, 0)], name[cut + 1 :]
    # Also keeps out the prefixes by which open_clip reads whole models from hubs and folders.
    if cut < 0 or model not in _open_clip().list_models():
        raise CheckpointError(
            f"There is no text tower {name!r}; say small, or MODEL/TAG as open_clip names them "
            "(ViT-B-32/laion2b_s34b_b79k), or MODEL:FILE."
        )
    return model, weights


def _one_line(text: str) -> str:
    return " ".join(text.split())


@cache
def _tokenizer() -> Any:
    return _open_clip().SimpleTokenizer()


@cache
def _open_clip() -> Any:
    """open_clip, imported when the first text branch needs it: it takes seconds."""
    ensure_torchvision()
    import open_clip

    return open_clip
