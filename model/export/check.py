"""Checks that exported files give the network's own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from model.errors import ExportError
from model.masks import iou
from model.network.config import PATCH
from model.network.prompts import Box, Click, Polygon, Prompt
from model.network.rasterise import prompt_map
from model.network.segnext import MULTIPLE, SegNext

LOGITS_TOLERANCE = 1e-3  # see ``Agreement.logits_difference``
LEAST_IOU = 0.999
ERRORS_ONLY = 3  # level of ONNX Runtime's log

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """How well exported files agree with the network that they were made from.

    Attributes:
        answers: how many were compared.
        logits_difference: the largest difference of two logits. Where an answer has logits above 1,
            the difference is divided by the largest of them, because the error of float32 grows
            with the numbers.
        mask_iou: the smallest IoU of two masks.
    """

    answers: int
    logits_difference: float
    mask_iou: float

    @property
    def holds(self) -> bool:
        """Whether both are within tolerance."""
        return self.logits_difference <= LOGITS_TOLERANCE and self.mask_iou >= LEAST_IOU


class Files:
    """The two files in ONNX Runtime, used as a program without PyTorch uses them."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self._encoder = onnxruntime.InferenceSession(encoder, options, providers)
        self._decoder = onnxruntime.InferenceSession(decoder, options, providers)

    def encode(self, image: npt.NDArray[np.uint8]) -> dict[str, Array]:
        """The decoder's inputs for an image, uint8 ``[H, W, 3]`` at the network's input size."""
        names = [output.name for output in self._encoder.get_outputs()]
        return dict(zip(names, self._encoder.run(names, {"image": image}), strict=True))

    def decode(
        self, maps: dict[str, Array], prompts: Sequence[Prompt], image_size: tuple[int, int]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Masks, bool ``[N, *image_size]``, and logits, float32 ``[N, h, w]``, for N prompts.

        Args:
            maps: from ``encode``.
            prompts, image_size: as in ``request``.
        """
        rows, cols = maps["image_embeddings"].shape[2:]
        inputs = maps | request(prompts, image_size, (rows * PATCH, cols * PATCH))
        masks, logits = self._decoder.run(["masks", "low_res_masks"], inputs)
        return masks, logits[:, 0]


def request(
    prompts: Sequence[Prompt], image_size: tuple[int, int], map_size: tuple[int, int]
) -> dict[str, Array]:
    """The decoder's inputs for prompts on one image.

    Args:
        prompts: with clicks, polygons, at most one box each, and masks that all have one size.
        image_size: (height, width) of the original image.
        map_size: (height, width) to draw polygons at.
    """
    n, k = len(prompts), max(len(prompt.clicks) for prompt in prompts) + 2
    coords, labels = np.zeros((n, k, 2), np.float32), np.full((n, k), -1, np.float32)
    sizes = {prompt.mask.shape for prompt in prompts if prompt.mask is not None} or {(1, 1)}
    logits = np.zeros((n, 1, *sizes.pop()), np.float32)
    regions = np.zeros((n, 2, *map_size), np.float32)
    for i, prompt in enumerate(prompts):
        for j, click in enumerate(prompt.clicks):
            coords[i, j], labels[i, j] = (click.col, click.row), click.positive
        for box in prompt.boxes:
            coords[i, -2:] = (box.left, box.top), (box.right, box.bottom)
            labels[i, -2:] = 2, 3
        if prompt.polygons:
            drawn = prompt_map(Prompt(polygons=prompt.polygons), image_size, map_size, radius=1)
            regions[i] = drawn[1:].numpy()
        if prompt.mask is not None:
            logits[i] = torch.logit(torch.from_numpy(prompt.mask)).numpy()
    return {
        "point_coords": coords,
        "point_labels": labels,
        "mask_input": logits,
        "has_mask_input": np.array([p.mask is not None for p in prompts], np.float32),
        "regions": regions,
        "orig_im_size": np.array(image_size, np.float32),
    }


def compare(model: SegNext, encoder: Path, decoder: Path) -> Agreement:
    """Compare the answers of the files and of the network.

    Images of several shapes (where the network takes them), one prompt and several, and every kind
    of prompt that the files take are compared.

    Raises:
        ExportError: the answers differ.
    """
    files = Files(encoder, decoder)
    side = model.config.size
    shapes = [(side, side)]
    if model.config.encoder == "mobilenetv2":
        shapes += [(side, 2 * MULTIPLE), (MULTIPLE, side)]
    total = Agreement(0, 0.0, 1.0)
    for shape in shapes:
        picture = _picture(*shape)
        embedding = model.encode(picture)
        # The original is larger and of the same shape, so that coordinates and masks are scaled.
        image_size = (shape[0] * 3 // 2, shape[1] * 3 // 2)
        embedding = replace(embedding, image_size=image_size)
        maps = files.encode(picture)
        first = Click(image_size[0] * 0.6, image_size[1] * 0.4)
        answer = model.decode(embedding, Prompt((first,)))
        for prompts in ([Prompt((first,))], _prompts(first, image_size, answer.probability)):
            expected = model.decode_many(embedding, prompts)
            masks, logits = files.decode(maps, prompts, image_size)
            for ours, mask, given in zip(expected, masks, logits, strict=True):
                wanted = ours.logits.numpy()
                difference = np.abs(wanted - given).max() / max(np.abs(wanted).max(), 1)
                total = Agreement(
                    total.answers + 1,
                    # NaN must not count as a small difference.
                    max(total.logits_difference, float(np.nan_to_num(difference, nan=np.inf))),
                    min(total.mask_iou, iou(ours.mask(), mask)),
                )
    if not total.holds:
        raise ExportError(
            f"The exported files give other masks than the network (logits differ by up to "
            f"{total.logits_difference:.2g}, mask IoU {total.mask_iou:.4f}) and were not kept; "
            "try the versions of torch and onnxruntime in constraints.txt."
        )
    return total


def _picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A picture of smooth colours with a disk of another colour, uint8 ``[height, width, 3]``."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    centre = (round(width * 0.4), round(height * 0.6))
    cv2.circle(picture, centre, max(min(height, width) // 4, 1), (230, 40, 90), thickness=-1)
    return np.asarray(picture, np.uint8)


def _prompts(
    first: Click, image_size: tuple[int, int], previous: npt.NDArray[np.float32]
) -> list[Prompt]:
    """Prompts of every kind; ``previous`` is the answer to ``first``, float32 ``[h, w]``."""
    height, width = image_size
    corner = Click(1, 1, positive=False)
    box = Box(height * 0.3, width * 0.1, height * 0.9, width * 0.7)
    triangle = Polygon(((first.row, 0), (height - 1, first.col), (first.row, width - 1)))
    return [
        Prompt((first, corner), mask=previous),
        Prompt(boxes=(box,)),
        Prompt((corner,), polygons=(triangle,), mask=previous),
    ]
