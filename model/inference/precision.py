"""The precision in which a serving network computes, and its compilation.

Nine tenths of the released shape's arithmetic are the matrix products of its transformer blocks.
Only these are put into a lower precision (see ``model.network.block``). Tokens, norms, similarity,
neck, head and logits, which decide about the mask, stay in float32. docs/speed.md says how much
time this saves and how well the masks agree.
"""

from __future__ import annotations

import time
from functools import cache
from typing import Literal

import numpy as np
import torch

from model.errors import CheckpointError
from model.network.block import Block
from model.network.prompts import Click, Prompt
from model.network.segnext import SegNext

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

WIDE = 512  # channels from which the blocks' matrices are most of the work on a CPU
LEAST_GAIN = 1.5  # how many times faster a bfloat16 matrix product has to be
PROBE = 768  # side of the matrices that are timed: the released shape's width
TRIALS = 5  # how often each is timed
# Images that show a compiled network its shapes: (height, width) in halves of its longest side.
SHAPES = ((2, 2), (1, 2), (2, 1))


def choose(precision: Precision, model: SegNext) -> torch.dtype:
    """The type in which the blocks' matrices are multiplied.

    "auto" is float16 on a GPU, because it agrees best with float32. On a CPU it is bfloat16 where
    the blocks are wide and this CPU was measured to be faster with it. Else it is float32.
    """
    if precision != "auto":
        return DTYPES[precision]
    if model.device.type == "cuda":
        return torch.float16
    if model.device.type == "cpu" and model.config.dim >= WIDE and bf16_pays():
        return torch.bfloat16
    return torch.float32


def lower(model: SegNext, dtype: torch.dtype) -> None:
    """Cast the blocks' matrices of a network that serves, in place. Such a network must not be
    trained or saved.

    Its embeddings keep their key and can be mixed with those of other precisions and devices: they
    differ by less than an annotator can see.
    """
    _ = model.encoder_fingerprint  # computed and remembered before the weights are rounded
    for block in model.modules():
        if isinstance(block, Block):
            block.lower(dtype)


def compile_and_warm(model: SegNext) -> None:
    """Compile encoder and decoder with ``torch.compile``, before the first click.

    Raises:
        CheckpointError: they cannot be compiled here; on a CPU this needs a C++ compiler.
    """
    model.compile(dynamic=True)
    model.backbone.compile(dynamic=True)
    half = model.config.size // 2
    prompt = Prompt((Click(1, 1),))
    try:
        for rows, cols in SHAPES:
            embedding = model.encode(np.zeros((rows * half, cols * half, 3), np.uint8))
            for prompts in ([prompt], [prompt, prompt]):
                model.decode_many(embedding, prompts)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"The network cannot be compiled ({reason}); install a C++ compiler such as g++, or "
            "turn the setting model.compile off."
        ) from error


@cache
def bf16_pays() -> bool:
    """Whether this CPU multiplies bfloat16 matrices enough faster than float32 ones.

    It is measured, because no list of instruction sets says how well a library uses them: with AMX
    it is five times as fast, with bfloat16 dot products less than twice, with neither it is slower.
    """
    wide = torch.rand(PROBE, PROBE)
    narrow = wide.bfloat16()
    # The two take turns, so that other work on the machine slows both, and the best of each counts.
    trials = [(_seconds(wide), _seconds(narrow)) for _ in range(TRIALS)]
    return min(slow for slow, _ in trials) > LEAST_GAIN * min(quick for _, quick in trials)


def _seconds(matrix: torch.Tensor) -> float:
    """How long the product of a square matrix ``[n, n]`` with itself takes."""
    began = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - began
