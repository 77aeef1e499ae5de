"""What ``decoder.onnx`` does besides the network: it draws prompts and restores masks' sizes.

Everything here is traced for ONNX, so sizes stay tensors and no branch depends on values.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.network.config import PATCH
from model.network.prediction import restore_size
from model.network.segnext import SegNext

POSITIVE, NEGATIVE, CORNER, OTHER_CORNER = 1, 0, 2, 3  # labels of points; -1 is padding


class PromptDecoder(nn.Module):
    """Turns prompts in pixels of the original image into masks of its size; see ``forward``."""

    disk: Tensor

    def __init__(self, model: SegNext) -> None:
        super().__init__()
        self.model = model
        self.radius = model.config.radius
        self.threshold = model.config.threshold
        offsets = torch.arange(-self.radius, self.radius + 1)
        square = torch.cartesian_prod(offsets, offsets)
        self.register_buffer("disk", square[square.square().sum(1) <= self.radius**2])

    def forward(
        self,
        image_embeddings: Tensor,
        skips: list[Tensor],
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        regions: Tensor,
        orig_im_size: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Answer N prompts on one image.

        All arguments are float32.

        Args:
            image_embeddings: of one image, ``[1, C, h, w]``.
            skips: ``[1, 24, 4h, 4w]`` and ``[1, 32, 2h, 2w]``; none for the ViT.
            point_coords: ``[N, K, 2]`` as (x, y) in pixels of the original image.
            point_labels: ``[N, K]``: 1 a positive click, 0 a negative one, 2 and 3 opposite
                corners of one box, -1 padding.
            mask_input: ``[N, 1, a, b]``, ``low_res_masks`` of the previous answer.
            has_mask_input: ``[N]``, 1 where there was one, else 0.
            regions: ``[N, 2, c, d]`` in [0, 1] over the whole image at any resolution: pixels on
                the object, and pixels off it.
            orig_im_size: ``[2]``, height and width of the original image.

        Returns:
            ``masks`` bool ``[N, height, width]``, and ``low_res_masks`` float32
            ``[N, 1, 4h, 4w]``, the network's logits.
        """
        size = (image_embeddings.shape[2] * PATCH, image_embeddings.shape[3] * PATCH)
        sides = torch._shape_as_tensor(image_embeddings)[2:] * PATCH
        # Not ``sigmoid``: that of ONNX Runtime is never exactly 0, and the network compares with 0.
        previous = 1 / (1 + torch.exp(-mask_input)) * has_mask_input[:, None, None, None]
        previous = F.interpolate(previous, size, mode="bilinear", align_corners=False)
        drawn = F.interpolate(regions, size, mode="bilinear", align_corners=False)
        marks = self.draw(point_coords, point_labels, size, sides, orig_im_size)
        logits = self.model(
            image_embeddings,
            tuple(skips),
            torch.cat([previous, torch.maximum(marks, drawn)], 1),
        )
        image_size = orig_im_size.long()
        full = restore_size(logits, size, (image_size[0], image_size[1]))  # type: ignore[arg-type]
        # Logits are compared with the threshold's logit, which saves computing probabilities.
        masks = full[:, 0] > math.log(self.threshold / (1 - self.threshold))
        return masks, logits

    def draw(
        self,
        point_coords: Tensor,
        point_labels: Tensor,
        size: tuple[int, int],
        sides: Tensor,
        orig_im_size: Tensor,
    ) -> Tensor:
        """Draw clicks and boxes as ``model.network.rasterise.prompt_map``, by operations that ONNX
        has.

        Args:
            point_coords, point_labels, orig_im_size: as in ``forward``.
            size: (height, width) of the map.
            sides: the same as an integer tensor ``[2]``.

        Returns:
            float32 ``[N, 2, *size]``, 0 or 1: positive, negative.
        """
        points = point_coords.flip(2)  # as (row, col)
        clicks = self._clicks(points, point_labels, size, sides, orig_im_size)
        boxes = self._boxes(points, point_labels, size, sides, orig_im_size)
        return torch.cat([torch.maximum(clicks[:, :1], boxes), clicks[:, 1:]], 1)

    def _clicks(
        self, points: Tensor, labels: Tensor, size: tuple[int, int], sides: Tensor, image: Tensor
    ) -> Tensor:
        """Clicks as ``model.network.rasterise.draw_clicks`` draws them: ``[N, 2, H, W]``, positive
        and negative. ``points`` are (row, col), ``[N, K, 2]``."""
        # Disks that reach beyond the map are drawn in a margin, which is then cut off.
        beyond = self.radius + 2
        margin = self.radius + beyond
        scaled = torch.minimum(points * (sides / image), sides + (beyond - 1.0))
        centres = (scaled.clamp(min=-beyond) + 0.5).long() + margin  # truncates
        pixels = centres[:, :, None] + self.disk  # [N, K, pixels of a disk, 2]
        third = torch.full_like(labels, 2)  # a channel for other points, cut off as well
        channels = torch.where(labels == NEGATIVE, torch.ones_like(labels), third)
        channels = torch.where(labels == POSITIVE, torch.zeros_like(labels), channels).long()
        prompts = torch.arange(points.shape[0])
        canvas = torch.zeros(points.shape[0], 3, size[0] + 2 * margin, size[1] + 2 * margin)
        at = (prompts[:, None, None], channels[:, :, None], pixels[..., 0], pixels[..., 1])
        canvas = canvas.index_put(at, torch.ones(()))
        return canvas[:, :2, margin:-margin, margin:-margin]

    def _boxes(
        self, points: Tensor, labels: Tensor, size: tuple[int, int], sides: Tensor, image: Tensor
    ) -> Tensor:
        """Boxes as ``model.network.rasterise.fill_boxes`` draws them, one for each prompt at most:
        ``[N, 1, H, W]``. ``points`` are (row, col), ``[N, K, 2]``."""
        corner = ((labels == CORNER) | (labels == OTHER_CORNER))[..., None]
        scaled = points * sides / image
        # A prompt without corners gets a box that is infinitely far away.
        low = torch.where(corner, scaled, torch.inf).amin(1)
        high = torch.where(corner, scaled, -torch.inf).amax(1)
        touches = ((high >= 0) & (low <= sides)).all(1)
        first = torch.minimum(low.clamp(min=0), sides - 1.0).floor()
        last = torch.minimum(torch.maximum(high, first + 1), sides * 1.0).ceil()
        inside = touches[:, None, None]
        for axis, side in enumerate(size):
            at = torch.arange(side)
            within = (at >= first[:, axis, None]) & (at < last[:, axis, None])
            inside = inside & within.unsqueeze(2 - axis)
        return inside[:, None].float()
