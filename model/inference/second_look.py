"""A second look: a small object is encoded again from a window around it.

The network sees an image at a few hundred pixels along a side. An object that is small there covers
only a few tokens, and in a large photograph most of its pixels are lost. So a square window around
the object, cut from the original pixels, is encoded like an image of its own, and the prompt is
decoded in it. Nothing is remembered between prompts: the window follows from the prompt (its marks
and the previous mask) and, when these do not say how large the object is, from the first answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import numpy.typing as npt

from model.errors import PromptError
from model.masks import Mask
from model.network.embedding import Embedding
from model.network.prediction import Prediction, Window
from model.network.prompts import Box, Click, Point, Polygon, Prompt, Scribble, check_prompt
from model.network.rasterise import prompt_map
from model.network.segnext import SegNext

Size = tuple[int, int]

# Chosen on the training sets' validation split; see docs/second-look.md.
MARGIN = 1.5  # side of a window, divided by the object's: the network needs some surroundings
LEAST_ZOOM = 1.3  # below it, a window shows hardly more than the network saw before
MOST_LOOKS = 3  # for one prompt, each closer than the one before
MOST_GROWTH = 1.5  # by which the mask's area may grow from one look to the next
FINE = 96  # least cells along a side of a mask cut to a window: with fewer, its edges would blur
LEAST_SIDE = 48  # pixels along a side of the smallest window
# A window's side is the smallest side times a power of ``STEP``, and its corner lies on a grid of
# the side / ``SNAP``. So the next click on the same object mostly gives the same window, which is
# already encoded.
STEP = 2**0.5
SNAP = 8


def is_quick(model: SegNext) -> bool:
    """Whether a window is encoded so quickly that a waiting annotator does not notice.

    It takes tenths of a second with the small network or on a GPU, and 20 s with the large network
    on a CPU.
    """
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
        model: the network that the embeddings are from.
        prompt: in pixels of the image.
        whole: the embedding of the image.
        crop: gives the embedding of a window of the image, encoded now or kept from before.
        decode: called instead of ``model.decode``, for a caller that queues its decodings.

    Returns:
        The answer; its ``window`` is None when it comes from the whole image.

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
        # Clicks do not say how much of the object is meant, even less so from close by. So the mask
        # found before is part of the prompt, and an answer that grows beyond it is not believed.
        try:
            closer = decode(crop(window), in_window(told, size, window))
        except PromptError:  # clicks outside the image, whose disks do not reach into the window
            break
        closer = replace(closer, image_size=size, window=window)
        shown = closer.probability
        area, before = (_share(model, mask) for mask in (shown, told.mask))
        grown = told.mask is not None and area > MOST_GROWTH * before
        # The object was lost, or the newest mark asks for more of it: the whole image decides.
        if grown and found is None:
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
    """The part of the image to look at next; None when it would show hardly more than before.

    Args:
        model: says how large the image and the window are at the network's input.
        prompt: the window holds all its marks, and its mask of the object. Without a mask, clicks
            and scribbles alone give no window: they do not say how large the object is.
        image_size: (height, width) of the image, in pixels.
        seen: the window that was looked at before; None: the whole image.
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
    """The same prompt in pixels of the window, as if that were the image."""

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
    """An image, its embedding, and the embeddings of the windows looked at so far.

    ``image`` is uint8 ``[H, W, 3]``, RGB.
    """

    image: npt.NDArray[np.uint8]
    whole: Embedding
    windows: dict[Window, Embedding] = field(default_factory=dict)


class Looker:
    """A network that takes second looks, for callers that have the image in memory.

    Its ``encode`` and ``decode`` are like those of ``SegNext``, with a ``Sight`` in place of an
    embedding.
    """

    def __init__(self, model: SegNext) -> None:
        self.model = model

    def encode(self, image: npt.NDArray[np.uint8]) -> Sight:
        """Encode one image, uint8 ``[H, W, 3]`` RGB. Raises ImageError, as ``SegNext.encode``."""
        return Sight(image, self.model.encode(image))

    def decode(self, sight: Sight, prompt: Prompt) -> Prediction:
        """Answer one prompt. Raises PromptError, as ``SegNext.decode``."""

        def crop(window: Window) -> Embedding:
            if window not in sight.windows:
                sight.windows[window] = self.model.encode(sight.image[window.slices])
            return sight.windows[window]

        return answer(self.model, prompt, sight.whole, crop)


def _share(model: SegNext, mask: npt.NDArray[np.float32] | None) -> float:
    """The share of the image that a mask covers, in [0, 1]; its probabilities are ``[h, w]``."""
    return 0.0 if mask is None else float((mask > model.config.threshold).mean())


def _points(prompt: Prompt) -> list[Point]:
    """The outermost points of a prompt's marks, and perhaps others of its points."""
    points = [(click.row, click.col) for click in prompt.clicks]
    for box in prompt.boxes:
        points += [(box.top, box.left), (box.bottom, box.right)]
    for polygon in prompt.polygons:
        points += polygon.points
    for scribble in prompt.scribbles:
        points += scribble.points
    return points


def _parts_meant(mask: Mask, prompt: Prompt, image_size: Size) -> Mask:
    """The connected parts of a mask, bool ``[h, w]``, that a positive mark touches; all of it where
    none is touched. After a first click the network may also find a similar object far away."""
    marks = replace(prompt, mask=None, text=None)
    if not marks.has_marks:
        return mask
    try:
        positive = prompt_map(marks, image_size, (mask.shape[0], mask.shape[1]), 1)[1].numpy()
    except PromptError:  # marks outside the image, so near that the network's larger disks touch it
        return mask
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    touched = np.unique(labels[positive > 0])
    meant = np.isin(labels, touched[touched > 0])
    return meant if meant.any() else mask


def _corners(mask: Mask, image_size: Size) -> list[Point]:
    """The first and the last corner of the box around a mask, bool ``[h, w]``, in pixels of the
    image; none for an empty mask."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    down, across = image_size[0] / mask.shape[0], image_size[1] / mask.shape[1]
    first = (float(rows[0] * down), float(cols[0] * across))
    return [first, (float((rows[-1] + 1) * down), float((cols[-1] + 1) * across))]


def _window_around(points: list[Point], image_size: Size) -> Window:
    """The window around points: square, with the points near its middle, but never outside the
    image, so it may be cut or moved."""
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
    """How many times larger the network sees an object in ``window`` than in ``seen``."""
    before = [a / b for a, b in zip(model.input_size(seen.size), seen.size, strict=True)]
    after = [a / b for a, b in zip(model.input_size(window.size), window.size, strict=True)]
    return min(new / old for new, old in zip(after, before, strict=True))


def _cut(
    mask: npt.NDArray[np.float32], image_size: Size, window: Window
) -> npt.NDArray[np.float32]:
    """The window's part of a mask over the whole image, both float32 ``[h, w]``; at least as fine
    as it was there."""
    scales = [cells / side for cells, side in zip(mask.shape, image_size, strict=True)]
    height, width = (
        max(math.ceil(side * scale), FINE) for side, scale in zip(window.size, scales, strict=True)
    )
    down, across = window.size[0] * scales[0] / height, window.size[1] * scales[1] / width
    # The centre of each cell of the cut, as a place in the mask; OpenCV counts from cells' centres.
    place = [
        [across, 0, window.left * scales[1] + across / 2 - 0.5],
        [0, down, window.top * scales[0] + down / 2 - 0.5],
    ]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cut = cv2.warpAffine(
        mask, np.array(place), (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(cut, np.float32)
