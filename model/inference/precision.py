"""In which precision a network that serves computes, and whether it is compiled.

Nine tenths of the released shape's arithmetic are the matrices of its transformer blocks. Only
these go into a lower precision (see ``model.network.block``); tokens, norms, likeness, neck, head
and logits, which decide about the mask, stay in float32. docs/speed.md has what it costs in
agreement and gains in time.
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
PAYS = 1.5  # times faster that a matrix product has to be
PROBE = 768  # side of the matrices tried: the released shape's width
# Images that show a compiled network all its shapes: longest side by longest side, and half of it.
SHAPES = ((2, 2), (1, 2), (2, 1))


def choose(precision: Precision, model: SegNext) -> torch.dtype:
    """The type of the blocks' matrices.

    "auto" takes float16 on a GPU, for it agrees best with float32; on a CPU bfloat16, for wide
    blocks where this CPU is measured to be faster at it; else float32.
    """
    if precision != "auto":
        return DTYPES[precision]
    if model.device.type == "cuda":
        return torch.float16
    if model.device.type == "cpu" and model.config.dim >= WIDE and bf16_pays():
        return torch.bfloat16
    return torch.float32


def lower(model: SegNext, dtype: torch.dtype) -> None:
    """Cast the blocks' matrices of a network that serves; not of one that trains or is saved.

    Its embeddings stay interchangeable with those of other precisions and keep their key: they
    differ by less than an annotator can see, and a GPU's are good on a CPU.
    """
    _ = model.encoder_fingerprint  # of the weights as they came
    for block in model.modules():
        if isinstance(block, Block):
            block.lower(dtype)


def compile_and_warm(model: SegNext) -> None:
    """``torch.compile`` encoder and decoder, and have them compiled before anyone waits.

    Raises:
        CheckpointError: they cannot be compiled here; on a CPU that takes a C++ compiler.
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
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones by enough.

    Measured, for no list of instruction sets says what a library makes of them: with AMX it is
    five times, with bfloat16 dot products under two, with neither it is slower.
    """
    wide = torch.rand(PROBE, PROBE)
    narrow = wide.bfloat16()
    # In turn, so that other work on the machine slows both; the best of each is neither's bad luck.
    trials = [(_seconds(wide), _seconds(narrow)) for _ in range(5)]
    return min(slow for slow, _ in trials) > PAYS * min(quick for _, quick in trials)


def _seconds(matrix: torch.Tensor) -> float:
    began = time.perf_counter()
    matrix @ matrix
    return time.perf_counter() - began
