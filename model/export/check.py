"""Whether exported files give the network's own answers."""

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
from model.network.decoder import PATCH
from model.network.prompts import Box, Click, Polygon, Prompt
from model.network.rasterise import prompt_map
from model.network.segnext import MULTIPLE, SegNext

LOGITS_TOLERANCE = 1e-3
IOU_TOLERANCE = 0.999

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Agreement:
    """How far exported files are from the network they were made of.

    Attributes:
        answers: how many were compared.
        logits_difference: the largest between two logits; where an answer's logits reach beyond
            1, as a share of the largest of them, which is what float32 is exact to.
        mask_iou: the smallest of two masks.
    """

    answers: int
    logits_difference: float
    mask_iou: float

    @property
    def holds(self) -> bool:
        return self.logits_difference <= LOGITS_TOLERANCE and self.mask_iou >= IOU_TOLERANCE


class Files:
    """The two files in ONNX Runtime, called as a program without PyTorch calls them."""

    def __init__(self, encoder: Path, decoder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        providers = ["CPUExecutionProvider"]
        self._encoder = onnxruntime.InferenceSession(encoder, options, providers)
        self._decoder = onnxruntime.InferenceSession(decoder, options, providers)

    def encode(self, image: npt.NDArray[np.uint8]) -> dict[str, Array]:
        """What the decoder wants of an image, uint8 ``[H, W, 3]`` at the network's input size."""
        names = [output.name for output in self._encoder.get_outputs()]
        return dict(zip(names, self._encoder.run(names, {"image": image}), strict=True))

    def decode(
        self, maps: dict[str, Array], prompts: Sequence[Prompt], image_size: tuple[int, int]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Masks ``[N, *image_size]`` and logits ``[N, h, w]`` of prompts with clicks, at most one
        box, polygons, and a mask of probabilities."""
        rows, cols = maps["image_embeddings"].shape[2:]
        inputs = maps | request(prompts, image_size, (rows * PATCH, cols * PATCH))
        masks, logits = self._decoder.run(["masks", "low_res_masks"], inputs)
        return masks, logits[:, 0]


def request(
    prompts: Sequence[Prompt], image_size: tuple[int, int], map_size: tuple[int, int]
) -> dict[str, Array]:
    """The decoder's inputs for prompts on an image of ``image_size`` pixels.

    Args:
        prompts: with clicks, polygons, at most one box, and masks of one size between them.
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
    """Ask the files and the network the same: images of several shapes where the network takes
    them, one prompt and several, of every kind that the files take.

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
        # A larger original of the same shape, so that coordinates and masks have to be scaled.
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
                    # A NaN must not pass for a small difference.
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
    """Smooth colours and a disk of another colour, uint8 ``[height, width, 3]``."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    centre = (round(width * 0.4), round(height * 0.6))
    cv2.circle(picture, centre, max(min(height, width) // 4, 1), (230, 40, 90), thickness=-1)
    return np.asarray(picture, np.uint8)


def _prompts(
    first: Click, image_size: tuple[int, int], previous: npt.NDArray[np.float32]
) -> list[Prompt]:
    height, width = image_size
    corner = Click(1, 1, positive=False)
    box = Box(height * 0.3, width * 0.1, height * 0.9, width * 0.7)
    triangle = Polygon(((first.row, 0), (height - 1, first.col), (first.row, width - 1)))
    return [
        Prompt((first, corner), mask=previous),
        Prompt(boxes=(box,)),
        Prompt((corner,), polygons=(triangle,), mask=previous),
    ]
