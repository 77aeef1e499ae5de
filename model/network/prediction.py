"""The network's answer to one prompt, from logits at stride 4 to a mask of the original size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from model.network.confidence import score

CANVAS = 2048  # longest side of the map that a windowed answer is pasted into
STRIP = 2**20  # pixels of a mask that are restored at a time
SURE = 1e-4  # probability by which a pixel must miss the threshold to be left out unrestored


@dataclass(frozen=True)
class Window:
    """A part of an image: whole pixels of the original upright image, half open."""

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
        logits: float32 ``[h, w]`` at stride 4 of the network's input.
        input_size: (height, width) of the network's input.
        image_size: (height, width) of the original image.
        threshold: probability above which a pixel belongs to the mask.
        window: the part of the image that the network saw and ``logits`` cover; ``None``: all of
            it. Outside it the probability is 0.
        confidence: of the network's config; makes ``score`` an estimate.
    """

    logits: Tensor
    input_size: tuple[int, int]
    image_size: tuple[int, int]
    threshold: float
    window: Window | None = None
    confidence: tuple[float, ...] = ()

    @property
    def probability(self) -> npt.NDArray[np.float32]:
        """float32 ``[h', w']`` in [0, 1] over the whole image: the previous mask of the next
        prompt. At stride 4 of the network's input; for a windowed answer as fine as its logits,
        but at most ``CANVAS`` a side."""
        whole = self.logits if self.window is None else self._pasted(self.window)
        array: npt.NDArray[np.float32] = whole.sigmoid().numpy()
        return array

    def full(self) -> npt.NDArray[np.float32]:
        """float32 ``[H, W]`` probabilities at the original size."""
        covered = self.window or Window(0, 0, *self.image_size)
        logits = restore_size(self.logits[None, None], self.input_size, covered.size)[0, 0]
        inside: npt.NDArray[np.float32] = logits.sigmoid_().numpy()
        if self.window is None:
            return inside
        whole = np.zeros(self.image_size, np.float32)
        whole[covered.slices] = inside
        return whole

    def mask(self) -> npt.NDArray[np.bool_]:
        """bool ``[H, W]`` at the original size: ``full() > threshold``, but restored only in the
        columns where the object may be, and never in full: the mask itself and little else."""
        whole = np.zeros(self.image_size, bool)
        covered = self.window or Window(0, 0, *self.image_size)
        inside, (height, width) = torch.from_numpy(whole[covered.slices]), covered.size
        columns = torch.nonzero(self._columns(width))[:, 0].tolist()
        if not columns:
            return whole
        # Bilinear restoration takes columns first, then rows. Left at one size, an axis comes out
        # as it went in: so the columns can be made once, and rows for any few of them, by the
        # numbers that ``full`` gives.
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
        """The estimated IoU of the mask with what is meant, in [0, 1]; 0 for an empty mask. Only
        a sign of it, not calibrated, where the network has no ``confidence``."""
        return score(self.logits.sigmoid(), self.threshold, self.confidence)

    def _columns(self, width: int) -> Tensor:
        """bool ``[width]``: which columns of the restored answer may hold a pixel of the mask.

        Restored pixels lie between the logits around them, so those that all miss the threshold
        have no such pixel among them.
        """
        possible = (self.logits.sigmoid() > self.threshold - SURE).any(0)
        # The logits left and right of a column, as in ``restore_size``, and one more each side.
        at_input = (torch.arange(width) + 0.5) * self.input_size[1] / width - 0.5
        at_input = at_input.clamp(0, self.input_size[1] - 1)
        cells = len(possible)
        left = (at_input * ((cells - 1) / max(self.input_size[1] - 1, 1))).long()
        around = left[:, None] + torch.arange(-1, 3)
        return possible[around.clamp(0, cells - 1)].any(1)

    def _pasted(self, window: Window) -> Tensor:
        """The logits on a canvas over the whole image, -inf outside the window."""
        wanted = [
            whole * cells / covered
            for whole, cells, covered in zip(
                self.image_size, self.logits.shape, window.size, strict=True
            )
        ]
        shrink = min(1.0, CANVAS / max(wanted))
        canvas = torch.full([max(round(side * shrink), 1) for side in wanted], -torch.inf)
        inside, places = [], []  # per axis: the canvas cells in the window, and where in it
        for axis, start in enumerate((window.top, window.left)):
            cells = torch.arange(canvas.shape[axis]) + 0.5
            share = (cells * self.image_size[axis] / len(cells) - start) / window.size[axis]
            inside.append((share >= 0) & (share < 1))
            # As in ``restore_size``: a pixel at the network's input, whose outermost pixels are
            # the outermost logits; those are -1 and 1 to ``grid_sample``.
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
    """Logits ``[B, 1, h, w]`` -> ``[B, 1, H, W]`` by the reference's two bilinear steps."""
    at_input = F.interpolate(logits, input_size, mode="bilinear", align_corners=True)
    return F.interpolate(at_input, image_size, mode="bilinear", align_corners=False)
