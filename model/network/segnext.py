"""SegNext (arXiv 2404.00741): an image is encoded once, and each prompt is then decoded cheaply.

The network keeps nothing between calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.errors import ImageError, PromptError
from model.network.cnn import MobileNetEncoder
from model.network.config import SegNextConfig
from model.network.decoder import Detail, Fusion, Head, Neck, PromptEncoder, Similarity
from model.network.embedding import Embedding
from model.network.prediction import Prediction
from model.network.prompts import Prompt
from model.network.rasterise import prompt_map
from model.network.resample import bilinear
from model.network.text import WORDLESS, TextBranch
from model.network.vit import ViTEncoder

# Sides of the small network's input are multiples of this: its coarsest map is at stride 32.
MULTIPLE = 32
# Pixels of input that are decoded at once: one prompt of the released shape, which fills a CPU's
# cores, or a few of the small one. Accelerators need more at once, and have the memory for it.
CHUNK = 2**20
CHUNK_ACCELERATED = 2**24


class SegNext(nn.Module):
    """The network. Its attributes have the names that the released checkpoints' parameters use."""

    def __init__(self, config: SegNextConfig) -> None:
        super().__init__()
        self.config = config
        small = config.encoder == "mobilenetv2"
        self.backbone: nn.Module = MobileNetEncoder(config) if small else ViTEncoder(config)
        self.visual_prompts_encoder = PromptEncoder(config.dim)
        self.fusion_blocks = Fusion(config)
        self.neck = Neck(config.dim, config.neck)
        self.head = Head(config.neck, config.head, config.dropout)
        self.similarity = Similarity(config.dim) if small else None
        self.detail = Detail(config.head, config.detail) if small and config.detail else None
        self.text_branch = TextBranch(config) if config.text_tower else None

    # --- answering prompts ---

    @torch.inference_mode()
    def encode(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """Encode one image.

        Args:
            image: uint8 ``[H, W, 3]`` RGB, upright.

        Returns:
            The embedding, float32 on the CPU.

        Raises:
            ImageError: the array has another shape or type, or no pixels.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ImageError("The image must be a non-empty RGB array of 8-bit values.")
        features, skips = self.backbone(self.preprocess(image)[None].to(self.device))
        return Embedding(
            features[0].cpu(),
            tuple(skip[0].cpu() for skip in skips),
            (image.shape[0], image.shape[1]),
        )

    @torch.inference_mode()
    def decode(self, embedding: Embedding, prompt: Prompt) -> Prediction:
        """Answer one prompt on an encoded image.

        Raises:
            PromptError: the prompt means nothing (see ``model.network.prompts.check_prompt``), or
                everything drawn lies outside the image, or it has text and the network has no text
                branch.
            CheckpointError: it has text and the text tower's weights cannot be had.
        """
        return self.decode_many(embedding, [prompt])[0]

    @torch.inference_mode()
    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Answer any number of independent prompts on one encoded image, in bounded memory.

        Raises:
            PromptError, CheckpointError: as ``decode``.
        """
        return self.decode_batch([embedding] * len(prompts), prompts)

    @torch.inference_mode()
    def decode_batch(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> list[Prediction]:
        """Answer each prompt on the embedding at the same place in the other list, as ``decode``
        would. Prompts whose network input has the same size are decoded together.

        Raises:
            PromptError, CheckpointError: as ``decode``.
        """
        alike: dict[tuple[int, int], list[int]] = {}
        for index, embedding in enumerate(embeddings):
            alike.setdefault(self.input_size(embedding.image_size), []).append(index)
        answers: dict[int, Prediction] = {}
        pixels = CHUNK if self.device.type == "cpu" else CHUNK_ACCELERATED
        for size, members in alike.items():
            step = max(pixels // (size[0] * size[1]), 1)
            for start in range(0, len(members), step):
                some = members[start : start + step]
                logits = self._logits(
                    [embeddings[index] for index in some], [prompts[index] for index in some], size
                )
                for index, each in zip(some, logits, strict=True):
                    answers[index] = Prediction(
                        each[0],
                        size,
                        embeddings[index].image_size,
                        self.config.threshold,
                        confidence=self.config.confidence,
                    )
        return [answers[index] for index in range(len(prompts))]

    def _logits(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt], size: tuple[int, int]
    ) -> Tensor:
        """Logits, float32 ``[B, 1, h, w]`` on the CPU, of pairs whose input has one size."""
        maps = [
            prompt_map(prompt, embedding.image_size, size, self.config.radius)
            for embedding, prompt in zip(embeddings, prompts, strict=True)
        ]
        # What depends on the image alone is computed once, however many prompts there are.
        distinct = embeddings[:1] if len(set(map(id, embeddings))) == 1 else embeddings
        levels = zip(*((each.features, *each.skips) for each in distinct), strict=True)
        features, *skips = (
            torch.stack([each.to(self.device, torch.float32) for each in level]).contiguous(
                memory_format=torch.channels_last
            )
            for level in levels
        )
        shown = torch.stack(maps).to(self.device)
        logits: Tensor = self(features, tuple(skips), shown, self.text_vectors(prompts))
        return logits.float().cpu()

    # --- training ---

    def forward(
        self,
        features: Tensor,
        skips: tuple[Tensor, ...],
        prompt: Tensor,
        text: Tensor | None = None,
    ) -> Tensor:
        """Decode a batch.

        Args:
            features: ``[B, C, H/16, W/16]``; or ``[1, C, H/16, W/16]``, for prompts on one image.
            skips: the encoder's finer maps ``[B, 24, H/4, W/4]`` and ``[B, 32, H/8, W/8]``, or
                those of one image; empty for the ViT.
            prompt: ``[B, 3, H, W]`` in [0, 1].
            text: ``text_vectors`` of the prompts, ``[B, text_dim]``; None: nothing was said.

        Returns:
            Logits ``[B, 1, H/4, W/4]``.
        """
        fused = features + self.visual_prompts_encoder(prompt)
        if self.similarity is not None:
            fused = fused + self.similarity(features, prompt)
        if self.text_branch is not None and text is not None:
            fused = fused + self.text_branch(features.expand(len(text), -1, -1, -1), text)
        maps = self.neck(self.fusion_blocks(fused))
        if self.detail is None:
            out: Tensor = self.head(maps)
            return out
        shared = self.head.features(maps)
        coarse: Tensor = self.head.seg_conv(self.head.dropout(shared))
        fine: Tensor = self.detail(shared, skips, prompt)
        return coarse + fine

    def text_vectors(self, prompts: Sequence[Prompt]) -> Tensor | None:
        """The vectors of the prompts' texts, float32 ``[B, text_dim]`` on the network's device;
        None when no prompt has text.

        Raises:
            PromptError: a prompt has text and the network has no text branch.
            CheckpointError: the text tower's weights cannot be had.
        """
        texts = [prompt.text for prompt in prompts]
        if not any(texts):
            return None
        if self.text_branch is None:
            raise PromptError(WORDLESS)
        return self.text_branch.vectors(texts)

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Every parameter that a fine-tune may change without making an embedding stale."""
        encoder = {id(parameter) for parameter in self.backbone.parameters()}
        return [p for p in self.parameters() if id(p) not in encoder]

    def preprocess(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """The network's input for an image: uint8 ``[H, W, 3]`` -> float32 ``[3, *input_size]``,
        normalised."""
        height, width = self.input_size((image.shape[0], image.shape[1]))
        if self.config.encoder == "vit":
            return self.preprocess_crop(bilinear(image, (height, width)))
        # Pixels are averaged when the image shrinks: plain bilinear sampling would alias large
        # photographs.
        shrinks = image.shape[0] * image.shape[1] > height * width
        resized = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        return self.preprocess_crop(np.asarray(resized, np.uint8))

    def preprocess_crop(self, crop: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Tensor:
        """``[H, W, 3]`` in [0, 255] -> float32 ``[3, H, W]``, normalised but not resized."""
        mean = torch.tensor(self.config.mean)[:, None, None]
        std = torch.tensor(self.config.std)[:, None, None]
        # PyTorch warns of arrays that must not be written to, as decoded files are.
        writable = np.require(crop, requirements=("C_CONTIGUOUS", "WRITEABLE"))
        tensor = torch.from_numpy(writable).permute(2, 0, 1).float() / 255
        return (tensor - mean) / std

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the network's input for an image of that size, all in pixels."""
        size = self.config.size
        if self.config.encoder == "vit":
            return size, size
        scale = size / max(image_size)
        height, width = (max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in image_size)
        return height, width

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return self.visual_prompts_encoder.proj.weight.device

    @property
    def preprocess_id(self) -> str:
        """A name for how an image becomes the network's input; part of an embedding's key."""
        kind = "squash" if self.config.encoder == "vit" else "fit"
        return f"{kind}-{self.config.size}"

    @cached_property
    def encoder_fingerprint(self) -> str:
        """16 hex digits for everything that decides about the encoder's features except the input
        size: its weights and its shape. Equal fingerprints give equal embeddings."""
        c = self.config
        shape = (c.encoder, c.depth, c.heads, c.window_freq, c.pretrain_grid, c.mean, c.std)
        digest = hashlib.sha256(repr(shape).encode())
        for name, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forget_fingerprint(self) -> None:
        """Have ``encoder_fingerprint`` computed from the weights of today when it is next read."""
        self.__dict__.pop("encoder_fingerprint", None)
