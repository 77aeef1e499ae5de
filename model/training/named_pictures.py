"""Pictures whose objects have names, and what a training of words draws from them.

A word means all objects of its name in the picture. Three drawings in ten are words for nothing in
it, of the set or of the dictionary, and nothing is meant. A part of the words come with a click or
another mark.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from model.data.datasets import IGNORE, MaskItem
from model.errors import DatasetError
from model.masks import Mask
from model.network.embedding import Embedding
from model.network.prompts import Prompt
from model.network.segnext import SegNext
from model.network.text_tower import dictionary
from model.progress import Progress, silent
from model.training.episodes import HALF, first_prompt

ABSENT_SHARE = 0.3  # of drawings whose word names nothing in the picture
MARKED_SHARE = 0.3  # of words that come with a click, a box or another mark
SILENT_SHARE = (
    0.3  # of drawings without a word, where the decoder learns along: it must not unlearn
)


class Picture(Protocol):
    """A picture that was encoded, and what is in it."""

    @property
    def key(self) -> str:
        """Tells it from other pictures."""

    @property
    def names(self) -> Sequence[str]:
        """The categories it holds something of."""

    def load(self) -> tuple[Embedding, dict[str, Mask], Mask]:
        """Its embedding; for each name all its objects, bool ``[H, W]``; and the pixels, bool
        ``[H, W]``, of which it is known what they are."""


@dataclass(frozen=True)
class FolderPicture:
    """A ``Picture`` of a folder of images and masks.

    Attributes:
        embedding: file of its embedding.
        item: its mask and the names of its instances.
        names: categories that it holds at least a pixel of.
    """

    embedding: Path
    item: MaskItem
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.embedding.name

    def load(self) -> tuple[Embedding, dict[str, Mask], Mask]:
        indices = self.item.load_mask()
        categories = self.item.categories or {}
        masks = {
            name: np.isin(indices, [i for i, given in categories.items() if given == name])
            for name in self.names
        }
        known = np.isin(indices, [0, *categories]) & (indices != IGNORE)
        return Embedding.from_bytes(self.embedding.read_bytes()), masks, known


def encode_pictures(
    model: SegNext, items: Sequence[MaskItem], folder: Path, progress: Progress = silent
) -> list[FolderPicture]:
    """Encode what is not in ``folder`` yet. Items that the manifest names nothing of are left out.

    Raises:
        DatasetError: a picture or mask cannot be read or they do not fit each other, or no item
            names its instances.
    """
    named = [item for item in items if item.categories is not None]
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for done, item in enumerate(named, start=1):
        image, indices = item.load()
        digest = hashlib.sha256(f"{model.encoder_fingerprint} {model.preprocess_id}".encode())
        digest.update(repr(image.shape).encode())
        digest.update(image.tobytes())
        path = folder / f"{digest.hexdigest()[:32]}.safetensors"
        if not path.is_file():
            scratch = path.with_suffix(".tmp")
            scratch.write_bytes(model.encode(image).to_bytes())
            os.replace(scratch, path)
        present = set(np.unique(indices).tolist())
        names = {name for index, name in (item.categories or {}).items() if index in present}
        pictures.append(FolderPicture(path, item, tuple(sorted(names))))
        progress(done, len(named))
    if not any(picture.names for picture in pictures):
        raise DatasetError(
            "No picture of the set says what its objects are called; name them in manifest.jsonl, "
            'as in "categories": {"1": "cat"} or "category": "cat".'
        )
    return pictures


class Words:
    """The names of a set, and words that name nothing in a picture.

    Attributes:
        names: all of the set.
        closed: whatever is no name of the set shall mean nothing. That is all the small tower can
            know. A CLIP tower knows what words it never met are like, and must not unlearn it.
    """

    def __init__(self, names: Sequence[str], closed: bool) -> None:
        self.names, self.closed = names, closed
        parts = {part for name in names for part in name.lower().split()}
        self.strangers = [word for word in dictionary() if word not in parts]

    def absent(self, present: Sequence[str], rng: np.random.Generator) -> str:
        """A name of the set that the picture has nothing of; where the set is closed or has no such
        name, other words too."""
        others = [name for name in self.names if name not in present]
        if others and (not self.closed or rng.random() < 0.5):
            return others[int(rng.integers(len(others)))]
        chosen = rng.integers(len(self.strangers), size=int(rng.integers(1, 4)))
        return " ".join(self.strangers[i] for i in chosen)


@dataclass(frozen=True, eq=False)
class Drawing:
    """One target of a step: ``target`` and ``known`` bool ``[H, W]`` at the network's input size,
    and what is said first about it."""

    embedding: Embedding
    target: Mask
    known: Mask
    prompt: Prompt


def draw(
    model: SegNext,
    picture: Picture,
    words: Words,
    may_be_silent: bool,
    rng: np.random.Generator,
) -> Drawing:
    """Draw what is said about a picture, and what is meant."""
    embedding, masks, known = picture.load()
    size = model.input_size(embedding.image_size)
    known = _resized(known, size)
    at_size = {name: _resized(mask, size) & known for name, mask in masks.items()}
    visible = [name for name, mask in at_size.items() if mask[::HALF, ::HALF].any()]
    if not visible or rng.random() < ABSENT_SHARE:
        word = words.absent(picture.names, rng)
        return Drawing(embedding, np.zeros(size, bool), known, Prompt(text=word))
    name = str(rng.choice(visible))
    target = at_size[name]
    silent_, marked = may_be_silent and rng.random() < SILENT_SHARE, rng.random() < MARKED_SHARE
    prompt = Prompt(text=name)
    if silent_ or marked:
        others = np.any(list(at_size.values()), 0) & ~target
        prompt = replace(first_prompt(target, others, rng), text=None if silent_ else name)
    return Drawing(embedding, target, known, prompt)


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    shares = cv2.resize(
        mask.astype(np.uint8) * 255, (size[1], size[0]), interpolation=cv2.INTER_AREA
    )
    return np.asarray(shares > 127)
