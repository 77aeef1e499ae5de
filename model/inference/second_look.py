"""A second look: what is small on the network's grid is encoded again from a window around it.

The network sees an image at a few hundred pixels a side. An object that is small there covers few
of its tokens, and in a large photograph most of its pixels are gone. So a square window around the
object, cut from the original pixels, is encoded like an image of its own and the prompt decoded
there. Nothing is remembered between prompts: the window follows from the prompt (its marks and the
previous mask) and, when these do not say how large the object is, from the first answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from model.errors import PromptError
from model.network.embedding import Embedding
from model.network.prediction import Prediction, Window
from model.network.prompts import Box, Click, Point, Polygon, Prompt, Scribble, check_prompt
from model.network.rasterise import prompt_map
from model.network.segnext import SegNext

Size = tuple[int, int]

# Chosen on the training sets' validation split; see docs/second-look.md.
MARGIN = 1.5  # side of a window in extents of what it is for: the network needs surroundings
LEAST_ZOOM = 1.3  # below it a window shows hardly more than what was seen before
MOST_LOOKS = 3  # at one prompt, each closer than the last
MOST_GROWTH = 1.5  # of the area, from one look to the next
FINE = 96  # cells a side of a mask cut to a window: of fewer, those at its edges would blur
LEAST_SIDE = 48  # pixels of the smallest window
# Sides grow by this factor and places lie on a grid of the side / ``SNAP``, so that the next click
# on the same object mostly finds the same window, which is encoded already.
STEP = 2**0.5
SNAP = 8


def is_quick(model: SegNext) -> bool:
    """Whether a window is encoded while an annotator waits without noticing: tenths of a second
    with the small network or on a GPU, against 20 s with the large one on a CPU."""
    return model.config.encoder == "mobilenetv2" or model.device.type != "cpu"


def answer(
    model: SegNext,
    prompt: Prompt,
    whole: Embedding,
    crop: Callable[[Window], Embedding],
    decode: Callable[[Embedding, Prompt], Prediction] | None = None,
) -> Prediction:
    """Decode a prompt, with a second look where the object is small.

    Args:
        model: the network both embeddings are of.
        prompt: in pixels of the image.
        whole: the embedding of the image.
        crop: the embedding of a window of the image, encoded now or kept from before.
        decode: stands in for ``model.decode``, for a caller that takes turns.

    Raises:
        PromptError: as ``SegNext.decode``.
    """
    check_prompt(prompt)
    decode = decode or model.decode
    size = whole.image_size
    found, told = None, prompt
    window = find_window(model, told, size)
    if window is None:
        found = decode(whole, prompt)
        told = replace(prompt, mask=found.probability)
        window = find_window(model, told, size)
    for _ in range(MOST_LOOKS):
        if window is None:
            break
        # Clicks leave open how much of the object is meant, and the more so the closer one looks.
        # So what was found goes along to say it, and an answer that grows beyond it has lost it.
        try:
            closer = decode(crop(window), in_window(told, size, window))
        except PromptError:  # so too here, where the disks are small beside the object
            break
        closer = replace(closer, image_size=size, window=window)
        shown = closer.probability
        area, before = (_share(model, mask) for mask in (shown, told.mask))
        grown = told.mask is not None and area > MOST_GROWTH * before
        if grown and found is None:  # lost, or the newest mark asks for more: the whole image tells
            found = decode(whole, prompt)
            told = replace(prompt, mask=found.probability)
            window = find_window(model, told, size)
            continue
        if not area or grown:
            break
        found, told = closer, replace(prompt, mask=shown)
        window = find_window(model, told, size, seen=window)
    return found or decode(whole, prompt)


def find_window(
    model: SegNext, prompt: Prompt, image_size: Size, seen: Window | None = None
) -> Window | None:
    """The part of the image to look at next; None when what was seen shows as much.

    Args:
        model: says how large the image and the window would be at the network's input.
        prompt: all its marks will lie inside the window, and what its mask shows of the object.
            Without a mask, clicks and scribbles alone give no window: they do not say how large
            the object is.
        image_size: (height, width) of the image.
        seen: the window that was looked at; None: the whole image.
    """
    points = _points(prompt)
    if prompt.mask is not None:
        mask = _parts_meant(prompt.mask > model.config.threshold, prompt, image_size)
        points += _corners(mask, image_size)
    elif not (prompt.boxes or prompt.polygons):
        return None
    if not points:
        return None
    window = _window_around(points, image_size)
    seen = seen or Window(0, 0, *image_size)
    return window if _zoom(model, seen, window) >= LEAST_ZOOM else None


def in_window(prompt: Prompt, image_size: Size, window: Window) -> Prompt:
    """The same prompt for the window as an image of its own."""

    def moved(point: Point) -> Point:
        return point[0] - window.top, point[1] - window.left

    mask = prompt.mask
    return replace(
        prompt,
        clicks=tuple(Click(*moved((c.row, c.col)), c.positive) for c in prompt.clicks),
        boxes=tuple(
            Box(*moved((box.top, box.left)), *moved((box.bottom, box.right)))
            for box in prompt.boxes
        ),
        polygons=tuple(
            Polygon(tuple(map(moved, shape.points)), shape.positive) for shape in prompt.polygons
        ),
        scribbles=tuple(
            Scribble(tuple(map(moved, shape.points)), shape.width, shape.positive)
            for shape in prompt.scribbles
        ),
        mask=None if mask is None else _cut(mask, image_size, window),
    )


@dataclass(frozen=True, eq=False)
class Sight:
    """An image with its embedding and those of the windows looked at so far."""

    image: npt.NDArray[np.uint8]
    whole: Embedding
    windows: dict[Window, Embedding] = field(default_factory=dict)


class Looker:
    """A network that takes second looks, for whoever has the image at hand: ``encode`` and
    ``decode`` as ``SegNext`` has them, with a ``Sight`` in the place of an embedding."""

    def __init__(self, model: SegNext) -> None:
        self.model = model

    def encode(self, image: npt.NDArray[np.uint8]) -> Sight:
        """Encode one image, uint8 ``[H, W, 3]``. Raises ImageError, as ``SegNext.encode``."""
        return Sight(image, self.model.encode(image))

    def decode(self, sight: Sight, prompt: Prompt) -> Prediction:
        """Answer one prompt. Raises PromptError, as ``SegNext.decode``."""

        def crop(window: Window) -> Embedding:
            if window not in sight.windows:
                sight.windows[window] = self.model.encode(sight.image[window.slices])
            return sight.windows[window]

        return answer(self.model, prompt, sight.whole, crop)


def _share(model: SegNext, mask: npt.NDArray[np.float32] | None) -> float:
    """Of the image, that a mask of any resolution shows."""
    return 0.0 if mask is None else float((mask > model.config.threshold).mean())


def _points(prompt: Prompt) -> list[Point]:
    """Points that all of a prompt's marks lie between."""
    points = [(click.row, click.col) for click in prompt.clicks]
    for box in prompt.boxes:
        points += [(box.top, box.left), (box.bottom, box.right)]
    for polygon in prompt.polygons:
        points += polygon.points
    for scribble in prompt.scribbles:
        points += scribble.points
    return points


def _parts_meant(
    mask: npt.NDArray[np.bool_], prompt: Prompt, image_size: Size
) -> npt.NDArray[np.bool_]:
    """The parts of a mask that a positive mark touches; all of it where none does. On a first
    click the network also finds what looks alike at the other end of the image."""
    marks = replace(prompt, mask=None, text=None)
    if not marks.has_marks:
        return mask
    try:
        positive = prompt_map(marks, image_size, (mask.shape[0], mask.shape[1]), 1)[1].numpy()
    except PromptError:  # beside the image: only the network's disks are large enough to touch it
        return mask
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    touched = np.unique(labels[positive > 0])
    meant = np.isin(labels, touched[touched > 0])
    return meant if meant.any() else mask


def _corners(mask: npt.NDArray[np.bool_], image_size: Size) -> list[Point]:
    """First and last corner, in pixels of the image, of what a mask of any resolution shows."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    down, across = image_size[0] / mask.shape[0], image_size[1] / mask.shape[1]
    first = (float(rows[0] * down), float(cols[0] * across))
    return [first, (float((rows[-1] + 1) * down), float((cols[-1] + 1) * across))]


def _window_around(points: list[Point], image_size: Size) -> Window:
    """The square window, as far as the image has room for it, in whose middle points lie."""
    spans = []
    for axis in (0, 1):
        along = np.clip([point[axis] for point in points], 0, image_size[axis])
        spans.append((float(along.min()), float(along.max())))
    wanted = MARGIN * max(high - low for low, high in spans) / LEAST_SIDE
    side = round(LEAST_SIDE * STEP ** math.ceil(math.log(max(wanted, 1.0), STEP)))
    grid = max(side // SNAP, 1)
    starts, lengths = [], []
    for (low, high), length in zip(spans, image_size, strict=True):
        start = round(((low + high - side) / 2) / grid) * grid
        starts.append(min(max(start, 0), max(length - side, 0)))
        lengths.append(min(side, length))
    return Window(starts[0], starts[1], starts[0] + lengths[0], starts[1] + lengths[1])


def _zoom(model: SegNext, seen: Window, window: Window) -> float:
    """How many times larger the network sees a thing in the second window than in the first."""
    before = [a / b for a, b in zip(model.input_size(seen.size), seen.size, strict=True)]
    after = [a / b for a, b in zip(model.input_size(window.size), window.size, strict=True)]
    return min(new / old for new, old in zip(after, before, strict=True))


def _cut(
    mask: npt.NDArray[np.float32], image_size: Size, window: Window
) -> npt.NDArray[np.float32]:
    """The window's part of a mask over the whole image, as fine as it was there or finer."""
    scales = [cells / side for cells, side in zip(mask.shape, image_size, strict=True)]
    height, width = (
        max(math.ceil(side * scale), FINE) for side, scale in zip(window.size, scales, strict=True)
    )
    down, across = window.size[0] * scales[0] / height, window.size[1] * scales[1] / width
    # Where in the mask each cell of the cut has its centre; OpenCV counts from cells' centres.
    place = [
        [across, 0, window.left * scales[1] + across / 2 - 0.5],
        [0, down, window.top * scales[0] + down / 2 - 0.5],
    ]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(
        mask, np.array(place), (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cut, np.float32)
