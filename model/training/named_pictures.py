"""Pictures whose objects have names, and the targets that a training of words draws from them.

A word means all objects of its name in the picture. Three draws in ten take a word that names
nothing in the picture, from the set or from a dictionary; their target is empty. Some of the words
come with a click or another mark.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from model.data.datasets import IGNORE, MaskItem
from model.errors import DatasetError
from model.files import write_file
from model.masks import Mask, resized_by_area
from model.network.embedding import Embedding
from model.network.prompts import Prompt
from model.network.segnext import SegNext
from model.network.text_tower import dictionary
from model.progress import Progress, silent
from model.training.first_prompts import HALF, first_prompt

ABSENT_SHARE = 0.3  # share of draws whose word names nothing in the picture
MARKED_SHARE = 0.3  # share of words that come with a click, a box or another mark
# Share of draws without a word, where the decoder learns as well: it must not forget other prompts.
SILENT_SHARE = 0.3
# Where the set is closed: share of absent words that are other names of the set, not strangers.
ABSENT_NAME_SHARE = 0.5
MOST_STRANGERS = 3  # words of the dictionary in one absent text, at least 1


class Picture(Protocol):
    """A picture that has been encoded, and the objects in it."""

    @property
    def key(self) -> str:
        """Tells it from other pictures."""

    @property
    def names(self) -> Sequence[str]:
        """The categories of the objects in it."""

    def load(self) -> tuple[Embedding, dict[str, Mask], Mask]:
        """Its embedding; for each name all its objects, bool ``[H, W]``; and the pixels, bool
        ``[H, W]``, whose category is known."""


@dataclass(frozen=True)
class FolderPicture:
    """A ``Picture`` of a folder of images and masks.

    Attributes:
        embedding: file of its embedding.
        item: its mask and the names of its instances.
        names: categories of which at least one pixel is in it.
    """

    embedding: Path
    item: MaskItem
    names: tuple[str, ...]

    @property
    def key(self) -> str:
        """As in ``Picture``: the digest of its pixels and of the encoder."""
        return self.embedding.name

    def load(self) -> tuple[Embedding, dict[str, Mask], Mask]:
        """As in ``Picture``; all masks are bool ``[H, W]``."""
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
    """Encode the pictures that ``folder`` has no embedding of yet.

    Items for which the manifest gives no names are left out.

    Raises:
        DatasetError: a picture or mask cannot be read or they do not fit each other, or no item
            names its instances.
    """
    named = [item for item in items if item.categories is not None]
    pictures = []
    for done, item in enumerate(named, start=1):
        image, indices = item.load()
        digest = hashlib.sha256(f"{model.encoder_fingerprint} {model.preprocess_id}".encode())
        digest.update(repr(image.shape).encode())
        digest.update(image.tobytes())
        path = folder / f"{digest.hexdigest()[:32]}.safetensors"
        if not path.is_file():
            write_file(path, model.encode(image).to_bytes())
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
        names: all names of the set.
        closed: any word that is not a name of the set shall mean nothing. The small tower can know
            no more than the set's names. A CLIP tower also knows words that the set does not have,
            and must not forget them.
        strangers: words of the dictionary that are no part of a name.
    """

    def __init__(self, names: Sequence[str], closed: bool) -> None:
        self.names, self.closed = names, closed
        parts = {part for name in names for part in name.lower().split()}
        self.strangers = [word for word in dictionary() if word not in parts]

    def absent(self, present: Sequence[str], rng: np.random.Generator) -> str:
        """A text that names nothing in a picture with the names ``present``.

        It is another name of the set, or words of the dictionary: those only where the set is
        closed, or has no other name.
        """
        others = [name for name in self.names if name not in present]
        if others and (not self.closed or rng.random() < ABSENT_NAME_SHARE):
            return others[int(rng.integers(len(others)))]
        n_words = int(rng.integers(1, MOST_STRANGERS + 1))
        chosen = rng.integers(len(self.strangers), size=n_words)
        return " ".join(self.strangers[i] for i in chosen)


@dataclass(frozen=True, eq=False)
class Draw:
    """One target of a step, and the first prompt for it.

    Attributes:
        embedding: of the picture.
        target, known: bool ``[H, W]`` at the network's input size: the pixels that the prompt
            means, and those that count.
        prompt: in pixels of every ``HALF``-th row and column.
    """

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
) -> Draw:
    """Draw a target in a picture, and the first prompt for it.

    Args:
        model: says at which size the network sees the picture.
        may_be_silent: some prompts have no word, only marks.
        rng: the only source of chance.
    """
    embedding, masks, known = picture.load()
    size = model.input_size(embedding.image_size)
    known = resized_by_area(known, size)
    at_size = {name: resized_by_area(mask, size) & known for name, mask in masks.items()}
    visible = [name for name, mask in at_size.items() if mask[::HALF, ::HALF].any()]
    if not visible or rng.random() < ABSENT_SHARE:
        word = words.absent(picture.names, rng)
        return Draw(embedding, np.zeros(size, bool), known, Prompt(text=word))
    name = str(rng.choice(visible))
    target = at_size[name]
    is_silent = may_be_silent and rng.random() < SILENT_SHARE
    is_marked = rng.random() < MARKED_SHARE
    prompt = Prompt(text=name)
    if is_silent or is_marked:
        others = np.any(list(at_size.values()), 0) & ~target
        prompt = replace(first_prompt(target, others, rng), text=None if is_silent else name)
    return Draw(embedding, target, known, prompt)
