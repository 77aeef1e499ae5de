"""Turns a text into a vector: by a CLIP model's text half, or by a small transformer of our own."""

from __future__ import annotations

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
from model.errors import CheckpointError
from model.network.config import TEXT_HEADS

TEMPLATE = "a photo of a {}."  # CLIP learned captions, not single words
# The small tower's shape is fixed: a checkpoint that holds one cannot be read with other numbers.
SMALL_DIM = 64
SMALL_LAYERS = 2
SMALL_CONTEXT = 24  # pieces of words; longer texts are cut
REMEMBERED_TEXTS = 512  # whose vectors a pretrained tower keeps
SAFE = (".safetensors", ".bin", ".pt", ".pth")  # open_clip reads these as tensors only


class FixedWords(nn.Module):
    """A random vector for each piece of a word, the same in every process; not learned, not saved.

    A learned table would take up most of a small network's file, for the few words that it saw.
    """

    def __init__(self, n: int, dim: int) -> None:
        super().__init__()
        # RandomState's numbers never change between versions of numpy; those of newer generators
        # may.
        table = np.random.RandomState(0).standard_normal((n, dim)).astype(np.float32)
        # The last two rows are the marks before and after a text, and the text's vector is read at
        # the second mark. If that mark had numbers of its own, all texts would look alike at first.
        table[-2:] = 0
        self.register_buffer("table", torch.from_numpy(table), persistent=False)

    def forward(self, pieces: Tensor) -> Tensor:
        """Indices of pieces, int64 ``[B, L]`` -> vectors, float32 ``[B, L, dim]``."""
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
        """n texts -> float32 ``[n, dim]``, vectors of length 1."""
        tokens = _open_clip().tokenize([_one_line(text) for text in texts], SMALL_CONTEXT)
        device = self.transformer.positional_embedding.device
        return F.normalize(self.transformer(tokens.to(device)).float(), dim=1)


class PretrainedTower:
    """The frozen text half of a CLIP model, on the CPU; it remembers the latest texts."""

    def __init__(self, name: str) -> None:
        model, weights = _split(name)
        self.tokenize, self.model = _load_clip(name, model, weights)
        self.vector = lru_cache(REMEMBERED_TEXTS)(self._vector)

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        """n texts -> float32 ``[n, dim]``, vectors of length 1."""
        return torch.stack([self.vector(text) for text in texts])

    @torch.inference_mode()
    def _vector(self, text: str) -> Tensor:
        """One text -> float32 ``[dim]`` of length 1."""
        vector: Tensor = self.model.encode_text(
            self.tokenize([TEMPLATE.format(_one_line(text))]), normalize=True
        )
        return vector[0].float()


@lru_cache(2)
def pretrained_tower(name: str) -> PretrainedTower:
    """The tower of the name ``MODEL/TAG`` or ``MODEL:FILE``; each process reads it once.

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
    """The words that CLIP's tokenizer knows whole, in lower case: tens of thousands."""
    pieces = _open_clip().SimpleTokenizer().encoder
    whole = (piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>"))
    return tuple(
        sorted(word for word in whole if len(word) > 2 and word.isascii() and word.isalpha())
    )


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
    # The errors of open_clip, torch, safetensors and the hub's clients have no common root.
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
    """Model, and tag or file, of a pretrained tower's name; open_clip knows the model."""
    cut = min((name.find(mark) for mark in ":/" if mark in name), default=-1)
    model, weights = name[: max(cut, 0)], name[cut + 1 :]
    # This also refuses the prefixes by which open_clip reads whole models from hubs and folders.
    if cut < 0 or model not in _open_clip().list_models():
        raise CheckpointError(
            f"There is no text tower {name!r}; give small, or MODEL/TAG as open_clip names them "
            "(ViT-B-32/laion2b_s34b_b79k), or MODEL:FILE."
        )
    return model, weights


def _one_line(text: str) -> str:
    return " ".join(text.split())


@cache
def _open_clip() -> Any:
    """open_clip, imported when the first text branch needs it: it takes seconds."""
    ensure_torchvision()
    import open_clip

    return open_clip
