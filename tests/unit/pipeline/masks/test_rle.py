"""The brush RLE against Label Studio's own converter, and against hostile input."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from label_studio_sdk.converter import brush
from numpy.typing import NDArray

from pipeline.errors import RleError
from pipeline.masks.rle import MAX_PIXELS, decode, encode

Mask = NDArray[np.bool_]


def theirs(mask: Mask) -> bytes:
    return bytes(brush.mask2rle(mask.astype(np.uint8) * 255))


def rough(height: int, width: int, share: float, seed: int = 0) -> Mask:
    return np.random.default_rng(seed).random((height, width)) < share


def disk(height: int, width: int) -> Mask:
    rows, columns = np.mgrid[:height, :width]
    return (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2


@settings(max_examples=150, deadline=None)
@given(npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_any_mask_is_bit_exact_both_ways(mask: Mask) -> None:
    data = encode(mask)
    assert data == theirs(mask)
    assert np.array_equal(decode(data, *mask.shape), mask)


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((1, 1), bool),
        np.ones((1, 1), bool),
        np.zeros((300, 400), bool),
        np.ones((128, 128), bool),  # exactly one longest run
        np.ones((129, 128), bool),  # just past it
        disk(480, 640),
        rough(200, 300, 0.5),
        rough(200, 300, 0.02),
    ],
    ids=["one-off", "one-on", "empty", "65536", "66048", "disk", "noise", "specks"],
)
def test_edges_are_bit_exact(mask: Mask) -> None:
    data = encode(mask)
    assert data == theirs(mask)
    assert np.array_equal(decode(data, *mask.shape), mask)
    assert np.array_equal(decode(list(data), *mask.shape), mask)


@settings(max_examples=150, deadline=None)
@given(
    npst.arrays(
        np.uint8,
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(4)),
        elements=st.sampled_from([0, 1, 127, 128, 200, 255]),
    )
)
def test_four_channels_from_elsewhere_are_read_as_the_sdk_reads_them(
    values: NDArray[np.uint8],
) -> None:
    data = bytes(brush.encode_rle(values.ravel()))
    alpha = brush.decode_rle(list(data)).reshape(values.shape)[:, :, 3]
    assert np.array_equal(decode(data, *values.shape[:2]), alpha > 127)


def literal_block_stream(values: bytes) -> bytes:
    """What Label Studio's JavaScript may write and the SDK never does: many words in one block."""
    bits = f"{len(values):032b}" + "00111" + "0010" + "0011" + "0111" + "1111"
    bits += "0" + "10" + f"{len(values) - 1:08b}" + "".join(f"{value:08b}" for value in values)
    bits += "0" * (8 - len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def test_a_block_of_many_words_is_read() -> None:
    values = np.random.default_rng(1).integers(0, 256, 4 * 6 * 5, dtype=np.uint8)
    data = literal_block_stream(values.tobytes())
    assert np.array_equal(brush.decode_rle(list(data)), values)
    assert np.array_equal(decode(data, 6, 5), values.reshape(6, 5, 4)[:, :, 3] > 127)


def test_a_stream_longer_than_one_piece_is_read() -> None:
    mask = rough(1500, 1500, 0.5, seed=3)
    data = encode(mask)
    assert len(data) > 3 * 2**17
    assert np.array_equal(decode(data, *mask.shape), mask)


@pytest.mark.parametrize("cut", [0, 1, 6, 7, 9, -9, -2])
def test_a_truncated_stream_is_refused(cut: int) -> None:
    data = encode(rough(40, 40, 0.5))
    with pytest.raises(RleError):
        decode(data[:cut], 40, 40)


def test_another_size_is_refused() -> None:
    with pytest.raises(RleError, match="original_width"):
        decode(encode(disk(20, 20)), 20, 21)


def test_a_huge_count_in_few_bytes_is_refused_at_once() -> None:
    began = time.perf_counter()
    with pytest.raises(RleError):
        decode(b"\xff" * 60, 2**14, 2**14 - 1)
    with pytest.raises(RleError):
        decode((4 * MAX_PIXELS).to_bytes(4, "big") + encode(disk(9, 9))[4:], 2**14, 2**14)
    with pytest.raises(RleError):
        decode(encode(disk(20, 20)), 2**20, 2**20)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize("data", ["abc", None, [1, 2, 300], [1, "a"], [-1], 7, {"a": 1}])
def test_what_is_not_bytes_is_refused(data: object) -> None:
    with pytest.raises(RleError):
        decode(data, 4, 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-2, -2)])
def test_a_size_that_cannot_be_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RleError):
        decode(encode(disk(4, 4)), *size)


@pytest.mark.parametrize(
    "mask", [np.zeros((0, 4), bool), np.zeros(4, bool), np.zeros((4, 4), np.uint8), [[True]]]
)
def test_what_is_not_a_mask_is_refused(mask: object) -> None:
    with pytest.raises(RleError):
        encode(mask)  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 12), st.integers(1, 12))
def test_noise_is_an_rle_error_or_a_mask(tail: bytes, height: int, width: int) -> None:
    header = encode(np.zeros((height, width), bool))[:6]
    for data in (tail, header + tail):
        try:
            assert decode(data, height, width).shape == (height, width)
        except RleError:
            continue
