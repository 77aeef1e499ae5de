"""The encoder's result for one image: computed once, stored, and decoded on every click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.errors import CheckpointError

# Pixels along a side; above it an entry is damaged, and would ask for more memory than exists.
LARGEST_IMAGE = 1_000_000


@dataclass(frozen=True, eq=False)
class Embedding:
    """One image's embedding.

    Attributes:
        features: float ``[C, h, w]`` at stride 16 of the network's input.
        skips: finer maps of the small encoder, ``[24, 4h, 4w]`` and ``[32, 2h, 2w]``; empty for
            the ViT.
        image_size: (height, width) of the upright original image, in pixels.
    """

    features: Tensor
    skips: tuple[Tensor, ...]
    image_size: tuple[int, int]

    @property
    def n_bytes(self) -> int:
        """Memory that the tensors take, in bytes."""
        return sum(t.numel() * t.element_size() for t in (self.features, *self.skips))

    def vector(self) -> npt.NDArray[np.float32]:
        """The mean feature, float32 ``[C]`` of length 1, to compare images by."""
        mean = self.features.float().mean((1, 2))
        array: npt.NDArray[np.float32] = torch.nn.functional.normalize(mean, dim=0).cpu().numpy()
        return array

    def to_bytes(self) -> bytes:
        """The embedding as safetensors in half precision."""
        tensors = {"features": self.features, **{f"skip.{i}": t for i, t in enumerate(self.skips)}}
        tensors = {name: t.half().cpu().contiguous() for name, t in tensors.items()}
        tensors["image_size"] = torch.tensor(self.image_size)
        return safetensors.torch.save(tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Embedding:
        """Read ``to_bytes`` back; tensors stay in half precision.

        Raises:
            CheckpointError: the bytes are damaged or are not an embedding.
        """
        try:
            tensors = safetensors.torch.load(data)
            height, width = (int(n) for n in tensors.pop("image_size"))
            features = tensors.pop("features")
            skips = tuple(tensors.pop(f"skip.{i}") for i in range(len(tensors)))
        except (SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"A stored embedding is damaged ({error}); delete it and it is computed again."
            ) from None
        shapes_fit = features.ndim == 3 and all(
            skip.ndim == 3 and skip.shape[1] * stride == features.shape[1] * 16
            for skip, stride in zip(skips, (4, 8), strict=False)
        )
        if not (shapes_fit and 0 < height <= LARGEST_IMAGE and 0 < width <= LARGEST_IMAGE):
            raise CheckpointError(
                "A stored embedding has a shape that cannot be; delete it and it is computed again."
            )
        return cls(features, skips, (height, width))


def stack(
    embeddings: Sequence[Embedding], device: torch.device
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Embeddings of one shape as float32 batches that autograd may use.

    Returns:
        Features ``[B, C, h, w]``, and the skips ``[B, 24, 4h, 4w]`` and ``[B, 32, 2h, 2w]`` where
        the embeddings have them.
    """
    features = torch.stack([each.features.float() for each in embeddings]).to(device)
    levels = zip(*(each.skips for each in embeddings), strict=True)
    skips = tuple(torch.stack([t.float() for t in level]).to(device) for level in levels)
    return features, skips
