"""The shape of a SegNext network, as a value that travels inside its checkpoint."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from model.errors import CheckpointError

# No sensible width, size or depth is above these; they stop a hostile file from asking for more.
LARGEST = 4096
DEEPEST = 100
LARGEST_MLP_RATIO = 16
PATCH = 16  # pixels along a side of a token of the embedding: its stride

TEXT_TOWER = re.compile(r"small|[\w.-]+/[\w.-]+|[\w.-]+:[^\0\n]{1,1000}")
TEXT_HEADS = 4  # of the small text tower
N_CONFIDENCE = 6  # weights that make a score, see ``model.network.confidence``
LARGEST_SMALL_TEXT = 512  # width of the small tower, whose table has 49,408 rows of that width


@dataclass(frozen=True)
class SegNextConfig:
    """What has to be known to build the network.

    Attributes:
        encoder: ``vit`` is the released shape: it squashes images to a square and is a plain
            transformer with windows. ``mobilenetv2`` keeps the aspect ratio and adds skips at
            strides 4 and 8.
        size: side of the network's square input (vit), or its longest side (mobilenetv2), in
            pixels.
        dim: channels C of the embedding.
        depth, heads, mlp_ratio: of the vit's blocks; for mobilenetv2 of the context blocks after
            the backbone.
        window_freq: every ``window_freq``-th vit block attends globally; 1 or less: all do.
        pretrain_grid: side in tokens of the grid that the vit was pretrained on (14 = 224 / 16);
            a window is at least as large.
        fusion: ``self_attention`` or ``naive`` (the sum alone).
        fusion_depth, fusion_heads, fusion_mlp_ratio: of the self-attention blocks that mix image
            and prompt.
        neck: channels of the maps at strides 4, 8, 16 and 32.
        head: channels of the head.
        dropout: share of the head's channels that are dropped in training, 0 to below 1.
        radius: of a click's disk, in pixels of the network's input.
        detail: channels of the stride-4 refinement; 0: no refinement, as in the released shape.
        threshold: probability above which a pixel belongs to the mask.
        mean, std: of the network's input, for each RGB channel of values in [0, 1].
        text_tower: what turns words into a vector; empty: the network knows no words. ``small``: a
            small transformer whose weights belong to the network; ``MODEL/TAG`` or ``MODEL:FILE``:
            a frozen CLIP tower that open_clip knows, whose weights stay outside the checkpoint.
        text_dim: length of that vector.
        text_depth: cross-attention blocks between the vector and the image.
        confidence: weights that turn an answer's statistics into its score, see
            ``model.network.confidence``; empty: scores are not calibrated.
    """

    encoder: Literal["vit", "mobilenetv2"] = "vit"
    size: int = 1024
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    window_freq: int = 3
    pretrain_grid: int = 14
    fusion: Literal["self_attention", "naive"] = "self_attention"
    fusion_depth: int = 2
    fusion_heads: int = 12
    fusion_mlp_ratio: float = 4.0
    neck: tuple[int, int, int, int] = (128, 256, 512, 1024)
    head: int = 256
    dropout: float = 0.1
    radius: int = 5
    detail: int = 0
    threshold: float = 0.49
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    text_tower: str = ""
    text_dim: int = 0
    text_depth: int = 0
    confidence: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        widths = (self.size, self.dim, self.heads, self.fusion_heads, self.head, self.radius)
        if not (
            len(self.neck) == 4
            and all(_is_whole(n, 1, LARGEST) for n in (*widths, *self.neck, self.pretrain_grid))
            and _is_whole(self.detail, 0, LARGEST)
            and _is_whole(self.window_freq, -LARGEST, LARGEST)
        ):
            raise _unfit("holds a width or size out of range")
        if self.size < 2 * PATCH or (self.size % PATCH and self.encoder != "vit"):
            raise _unfit(f"asks for a size of {self.size} pixels")
        # The small encoder's positions take a quarter of the channels each for the sine and the
        # cosine of the row and of the column.
        parts = 4 if self.encoder == "mobilenetv2" else 1
        if any(self.dim % n for n in (self.heads, self.fusion_heads, parts)):
            raise _unfit("has a dim that its heads, or 4, do not divide")
        if not (_is_whole(self.depth, 0, DEEPEST) and _is_whole(self.fusion_depth, 0, DEEPEST)):
            raise _unfit("asks for a depth out of range")
        if not (
            1 / self.dim <= self.mlp_ratio <= LARGEST_MLP_RATIO
            and 1 / self.dim <= self.fusion_mlp_ratio <= LARGEST_MLP_RATIO
            and 0 <= self.dropout < 1
            and 0 < self.threshold < 1
        ):
            raise _unfit("holds a ratio out of range")
        if not (
            len(self.mean) == len(self.std) == 3
            and all(abs(m) < 1e3 for m in self.mean)
            and all(0 < s < 1e3 for s in self.std)
        ):
            raise _unfit("holds no mean and std of three channels")
        if self.encoder not in ("vit", "mobilenetv2") or self.fusion not in (
            "self_attention",
            "naive",
        ):
            raise _unfit("names a part that does not exist here")
        if len(self.confidence) not in (0, N_CONFIDENCE) or not all(
            abs(weight) < 1e3 for weight in self.confidence
        ):
            raise _unfit("holds no weights of a score")
        if self.text_tower != "":
            self._check_text()

    def _check_text(self) -> None:
        if not (isinstance(self.text_tower, str) and TEXT_TOWER.fullmatch(self.text_tower)):
            raise _unfit("names no text tower: small, MODEL/TAG or MODEL:FILE")
        small = self.text_tower == "small"
        largest = LARGEST_SMALL_TEXT if small else LARGEST
        if not (
            _is_whole(self.text_dim, 1, largest)
            and _is_whole(self.text_depth, 0, DEEPEST)
            and not (small and self.text_dim % TEXT_HEADS)
        ):
            raise _unfit("holds a width or depth of text that is out of range")

    def to_json(self) -> str:
        """The config as JSON with sorted keys; equal configs give equal texts."""
        values = asdict(self)
        if not self.text_tower:  # the same text as before the network could have a text branch
            values = {k: v for k, v in values.items() if not k.startswith("text_")}
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SegNextConfig:
        """Read back ``to_json``.

        Raises:
            CheckpointError: the text is not such a config.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            for name, value in values.items():
                values[name] = tuple(value) if isinstance(value, list) else value
            return cls(**values)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise _unfit("cannot be read") from None


def _is_whole(value: Any, low: int, high: int) -> bool:
    """Whether a value, perhaps from a file, is an integer in a range; True and False are not."""
    return type(value) is int and low <= value <= high


def _unfit(how: str) -> CheckpointError:
    return CheckpointError(f"The network's config {how}; get the checkpoint again.")


# The network that ships: small enough for two CPU cores.
SMALL = SegNextConfig(
    encoder="mobilenetv2",
    size=384,
    dim=256,
    depth=2,
    heads=4,
    fusion_depth=2,
    fusion_heads=4,
    fusion_mlp_ratio=2.0,
    mlp_ratio=2.0,
    neck=(64, 96, 128, 256),
    head=64,
    dropout=0.0,
    detail=48,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
