"""The network's answer to one prompt: from logits at stride 4 to a mask of the original size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.masks import Mask
from model.network.confidence import score

CANVAS = 2048  # longest side of the map that the answer of a window is pasted into
STRIP = 2**20  # pixels of a mask that are restored at a time
# A pixel is left out of the mask without being restored when its probability misses the threshold
# by at least this much.
SURE = 1e-4


@dataclass(frozen=True)
class Window:
    """A part of an image, in whole pixels of the original upright image.

    ``bottom`` and ``right`` are the first row and column outside it.
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.bottom - self.top, self.right - self.left

    @property
    def slices(self) -> tuple[slice, slice]:
        """Cuts the window out of an array ``[H, W, ...]``."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer to one prompt.

    Attributes:
        logits: float32 ``[h, w]`` at stride 4 of the network's input, on the CPU.
        input_size: (height, width) of the network's input, in pixels.
        image_size: (height, width) of the original image, in pixels.
        threshold: probability above which a pixel belongs to the mask.
        window: the part of the image that the network saw and that ``logits`` cover; None: the
            whole image. Outside it the probability is 0.
        confidence: of the network's config; turns the answer's statistics into ``score``.
    """

    logits: Tensor
    input_size: tuple[int, int]
    image_size: tuple[int, int]
    threshold: float
    window: Window | None = None
    confidence: tuple[float, ...] = ()

    @property
    def probability(self) -> npt.NDArray[np.float32]:
        """float32 ``[h', w']`` in [0, 1] over the whole image, to be the next prompt's mask.

        It is at stride 4 of the network's input. The answer of a window is as fine as its logits,
        but at most ``CANVAS`` cells along a side.
        """
        whole = self.logits if self.window is None else self._pasted(self.window)
        array: npt.NDArray[np.float32] = whole.sigmoid().numpy()
        return array

    def full(self) -> npt.NDArray[np.float32]:
        """Probabilities at the original size, float32 ``[H, W]`` in [0, 1]."""
        covered = self.window or Window(0, 0, *self.image_size)
        logits = restore_size(self.logits[None, None], self.input_size, covered.size)[0, 0]
        inside: npt.NDArray[np.float32] = logits.sigmoid_().numpy()
        if self.window is None:
            return inside
        whole = np.zeros(self.image_size, np.float32)
        whole[covered.slices] = inside
        return whole

    def mask(self) -> Mask:
        """The mask, bool ``[H, W]`` at the original size: ``full() > threshold``.

        Only columns in which the object may be are restored, a strip at a time, so it takes little
        memory besides the mask itself.
        """
        whole = np.zeros(self.image_size, bool)
        covered = self.window or Window(0, 0, *self.image_size)
        inside, (height, width) = torch.from_numpy(whole[covered.slices]), covered.size
        columns = torch.nonzero(self._columns(width))[:, 0].tolist()
        if not columns:
            return whole
        # Bilinear restoration works on one axis at a time, and an axis that keeps its size keeps
        # its numbers. So the columns are enlarged once, and then the rows of any few columns, and
        # the result is what ``full`` gives.
        at_input = F.interpolate(
            self.logits[None, None], self.input_size, mode="bilinear", align_corners=True
        )
        size = (self.input_size[0], width)
        wide = F.interpolate(at_input, size, mode="bilinear", align_corners=False)
        step = max(STRIP // height, 1)
        for left in range(columns[0], columns[-1] + 1, step):
            some = slice(left, min(left + step, columns[-1] + 1))
            size = (height, some.stop - left)
            strip = F.interpolate(wide[..., some], size, mode="bilinear", align_corners=False)
            inside[:, some] = strip[0, 0].sigmoid_() > self.threshold
        return whole

    @property
    def score(self) -> float:
        """The estimated IoU of the mask with the object that is meant, in [0, 1]; 0 for an empty
        mask. Not calibrated where the network has no ``confidence``."""
        return score(self.logits.sigmoid(), self.threshold, self.confidence)

    def _columns(self, width: int) -> Tensor:
        """Which columns of the restored answer may hold a pixel of the mask: bool ``[width]``.

        A restored logit lies between the logits around it. Where all of these miss the threshold,
        it does too.
        """
        possible = (self.logits.sigmoid() > self.threshold - SURE).any(0)
        # The logits left and right of a column, as in ``restore_size``, and one more on each side.
        at_input = (torch.arange(width) + 0.5) * self.input_size[1] / width - 0.5
        at_input = at_input.clamp(0, self.input_size[1] - 1)
        cells = len(possible)
        left = (at_input * ((cells - 1) / max(self.input_size[1] - 1, 1))).long()
        around = left[:, None] + torch.arange(-1, 3)
        return possible[around.clamp(0, cells - 1)].any(1)

    def _pasted(self, window: Window) -> Tensor:
        """The logits on a map of the whole image, float32 ``[h', w']``; -inf outside the window."""
        wanted = [
            whole * cells / covered
            for whole, cells, covered in zip(
                self.image_size, self.logits.shape, window.size, strict=True
            )
        ]
        shrink = min(1.0, CANVAS / max(wanted))
        canvas = torch.full([max(round(side * shrink), 1) for side in wanted], -torch.inf)
        # For each axis: which cells of the canvas lie in the window, and where in it.
        inside, places = [], []
        for axis, start in enumerate((window.top, window.left)):
            cells = torch.arange(canvas.shape[axis]) + 0.5
            share = (cells * self.image_size[axis] / len(cells) - start) / window.size[axis]
            inside.append((share >= 0) & (share < 1))
            # As in ``restore_size``: first the place in pixels of the network's input. Its
            # outermost pixels are the outermost logits, which ``grid_sample`` calls -1 and 1.
            at_input = share[inside[axis]] * self.input_size[axis] - 0.5
            places.append(2 * at_input / max(self.input_size[axis] - 1, 1) - 1)
        if all(len(each) for each in places):
            grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], 2)
            sampled = F.grid_sample(
                self.logits[None, None], grid[None], padding_mode="border", align_corners=True
            )
            canvas[inside[0][:, None] & inside[1]] = sampled.flatten()
        return canvas


def restore_size(
    logits: Tensor, input_size: tuple[int, int], image_size: tuple[int, int]
) -> Tensor:
    """Logits ``[B, 1, h, w]`` -> ``[B, 1, *image_size]``, by the reference network's two bilinear
    steps: to the size of its input, then to the image's."""
    at_input = F.interpolate(logits, input_size, mode="bilinear", align_corners=True)
    return F.interpolate(at_input, image_size, mode="bilinear", align_corners=False)
