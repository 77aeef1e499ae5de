"""SegNext (arXiv 2404.00741): the image is encoded once, each prompt is decoded lightly.
Stateless."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.cnn import MobileNetEncoder
from model.config import SegNextConfig
from model.decoder import Detail, Fusion, Head, Neck, PromptEncoder, Similarity
from model.embedding import Embedding
from model.errors import ImageError, PromptError
from model.prediction import Prediction
from model.prompts import Prompt
from model.rasterise import prompt_map
from model.resample import bilinear
from model.text import TextBranch
from model.vit import ViTEncoder

# Sides of the small network's input divide by this: its coarsest map is at stride 32.
MULTIPLE = 32


class SegNext(nn.Module):
    """The network. Attributes carry the released checkpoints' parameter names."""

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

    # --- for whoever answers clicks ---

    @torch.inference_mode()
    def encode(self, image: npt.NDArray[np.uint8]) -> Embedding:
        """Encode one image.

        Args:
            image: uint8 ``[H, W, 3]`` RGB, upright.

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
            PromptError: the prompt means nothing; see ``model.prompts.check_prompt``. Or it has
                text and the network has no text branch.
            CheckpointError: it has text and the text tower's weights cannot be had.
        """
        return self.decode_many(embedding, [prompt])[0]

    @torch.inference_mode()
    def decode_many(self, embedding: Embedding, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Answer several independent prompts on one encoded image in one pass."""
        size = self.input_size(embedding.image_size)
        maps = torch.stack(
            [prompt_map(p, embedding.image_size, size, self.config.radius) for p in prompts]
        ).to(self.device)
        n = len(prompts)
        features = embedding.features.to(maps)[None].expand(n, -1, -1, -1)
        skips = tuple(skip.to(maps)[None].expand(n, -1, -1, -1) for skip in embedding.skips)
        logits = self(features, skips, maps, self.text_vectors(prompts)).float().cpu()
        return [
            Prediction(
                each[0],
                size,
                embedding.image_size,
                self.config.threshold,
                confidence=self.config.confidence,
            )
            for each in logits
        ]

    # --- for whoever trains ---

    def forward(
        self,
        features: Tensor,
        skips: tuple[Tensor, ...],
        prompt: Tensor,
        text: Tensor | None = None,
    ) -> Tensor:
        """Decode a batch.

        Args:
            features: ``[B, C, H/16, W/16]``.
            skips: the encoder's finer maps, batched; empty for the ViT.
            prompt: ``[B, 3, H, W]`` in [0, 1].
            text: ``text_vectors`` of the prompts, ``[B, text_dim]``; None: nothing was said.

        Returns:
            Logits ``[B, 1, H/4, W/4]``.
        """
        fused = features + self.visual_prompts_encoder(prompt)
        if self.similarity is not None:
            fused = fused + self.similarity(features, prompt)
        if self.text_branch is not None and text is not None:
            fused = fused + self.text_branch(features, text)
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
            raise PromptError(
                "The serving model knows no words; click the object, or train a text branch with "
                "`maskloop train text`."
            )
        return self.text_branch.vectors(texts)

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Every parameter that a fine-tune may change without making an embedding stale."""
        encoder = {id(parameter) for parameter in self.backbone.parameters()}
        return [p for p in self.parameters() if id(p) not in encoder]

    def preprocess(self, image: npt.NDArray[np.uint8]) -> Tensor:
        """uint8 ``[H, W, 3]`` -> float32 ``[3, *input_size]``, normalised."""
        height, width = self.input_size((image.shape[0], image.shape[1]))
        if self.config.encoder == "vit":
            return self.preprocess_crop(bilinear(image, (height, width)))
        # Averaging when it shrinks: large photographs would alias under plain bilinear sampling.
        shrinks = image.shape[0] * image.shape[1] > height * width
        resized = cv2.resize(
            image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
        return self.preprocess_crop(np.asarray(resized, np.uint8))

    def preprocess_crop(self, crop: npt.NDArray[np.uint8] | npt.NDArray[np.float32]) -> Tensor:
        """``[H, W, 3]`` of 0 to 255 -> float32 ``[3, H, W]``, normalised, not resized."""
        mean = torch.tensor(self.config.mean)[:, None, None]
        std = torch.tensor(self.config.std)[:, None, None]
        # PyTorch warns of arrays it might write to against their will; decoded files are such.
        writable = np.require(crop, requirements=("C_CONTIGUOUS", "WRITEABLE"))
        tensor = torch.from_numpy(writable).permute(2, 0, 1).float() / 255
        return (tensor - mean) / std

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the network's input for an image of that size."""
        size = self.config.size
        if self.config.encoder == "vit":
            return size, size
        scale = size / max(image_size)
        height, width = (max(round(side * scale / MULTIPLE), 1) * MULTIPLE for side in image_size)
        return height, width

    @property
    def device(self) -> torch.device:
        return self.visual_prompts_encoder.proj.weight.device

    @property
    def preprocess_id(self) -> str:
        """Names how an image becomes the network's input; part of an embedding's key."""
        kind = "squash" if self.config.encoder == "vit" else "fit"
        return f"{kind}-{self.config.size}"

    @cached_property
    def encoder_fingerprint(self) -> str:
        """16 hex digits over the encoder's weights and what else decides about its features but
        the input size; equal fingerprints give equal embeddings."""
        c = self.config
        shape = (c.encoder, c.depth, c.heads, c.window_freq, c.pretrain_grid, c.mean, c.std)
        digest = hashlib.sha256(repr(shape).encode())
        for name, tensor in sorted(self.backbone.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]
