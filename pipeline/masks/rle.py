"""Label Studio's brush RLE: a bit stream of runs over the RGBA bytes of a mask, both ways in numpy.

The format is that of ``@thi.ng/rle-pack``, which Label Studio's page uses. The stream consists of
big-endian bits:

- 32 bits: the count of values, which is 4 * height * width;
- 5 bits: the word size - 1;
- four times 4 bits: the size of each length field - 1;
- blocks of 1 bit that is 1 for a run, 2 bits with the index of the length field, the length - 1,
  and then one 8-bit word for a run or ``length`` words otherwise;
- 1 to 8 zero bits of padding.

The values are the four channels of each pixel, row by row; channel 3 (alpha) is the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RleError

MAX_PIXELS = 2**28  # of a mask to encode or decode; the 32-bit count could hold four times as many
WORD_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)  # what Label Studio and its SDK write
LONGEST_RUN = 2**16
HEADER_BITS = 32 + 5 + 4 * 4
CHUNK_BYTES = 2**17  # of the stream decoded at a time, so that memory does not grow with it


def encode(mask: NDArray[np.bool_]) -> bytes:
    """The RLE of a mask, bit for bit what ``label_studio_sdk`` writes for ``mask * 255``.

    Args:
        mask: bool [H, W], not empty.

    Raises:
        RleError: the array is not a bool mask, or has no pixel or too many.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or mask.dtype != np.bool_:
        raise RleError("A mask to encode is a bool array of two dimensions; convert it first.")
    if not 0 < mask.size <= MAX_PIXELS:
        raise RleError(f"A mask has 1 to {MAX_PIXELS} pixels, not {mask.size}; resize it first.")
    codes, widths = _blocks(mask.ravel())
    header = np.array([4 * mask.size, _field_sizes_code()], dtype=np.uint64)
    return _pack(
        np.concatenate([header, codes]),
        np.concatenate([np.array([32, HEADER_BITS - 32], dtype=np.int64), widths]),
    )


def decode(data: bytes | Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask in an RLE: bool [height, width], True where alpha is above 127.

    Args:
        data: the stream, as bytes or as the list of ints Label Studio's JSON holds.
        height: rows of the image in pixels.
        width: columns of the image in pixels.

    Raises:
        RleError: the data is not such a stream, is cut short, or has another size.
    """
    stream = _as_bytes(data)
    pixels = height * width
    if height < 1 or width < 1 or pixels > MAX_PIXELS:
        raise RleError(f"A mask cannot have {height} x {width} pixels; check the image's size.")
    sizes = _read_header(stream, 4 * pixels)
    out = np.empty(pixels, dtype=np.bool_)
    done = 0
    windows = _windows(stream)
    for positions in _chains(windows, sizes, 8 * len(stream), 4 * pixels):
        done = _expand(windows, positions, sizes, done, out)
    return out.reshape(height, width)


def _field_sizes_code() -> int:
    code = WORD_BITS - 1
    for size in LENGTH_BITS:
        code = code << 4 | (size - 1)
    return code


def _blocks(flat: NDArray[np.bool_]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """One code (uint64, right-aligned bits) and its width in bits for each block of the mask."""
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    bounds = np.concatenate([[-1], changes, [flat.size - 1]])
    # All four channels of a pixel are equal, so no run is shorter than 4.
    lengths: NDArray[np.int64] = 4 * np.diff(bounds)
    values: NDArray[np.int64] = np.zeros(lengths.size, dtype=np.int64)
    values[0 if flat[0] else 1 :: 2] = 255
    index: NDArray[np.int64] = np.searchsorted(np.array([8, 16, 256]), lengths)
    parts = (lengths - 1) // LONGEST_RUN + 1
    if parts.size and parts.max() > 1:
        last = np.cumsum(parts) - 1
        rest = lengths - (parts - 1) * LONGEST_RUN
        lengths = np.full(int(last[-1]) + 1, LONGEST_RUN, dtype=np.int64)
        lengths[last] = rest
        index, values = np.repeat(index, parts), np.repeat(values, parts)
    sizes: NDArray[np.int64] = np.array(LENGTH_BITS, dtype=np.int64)[index]
    codes = ((4 | index) << (sizes + WORD_BITS)) | ((lengths - 1) << WORD_BITS) | values
    return codes.astype(np.uint64), sizes + 3 + WORD_BITS


def _pack(codes: NDArray[np.uint64], widths: NDArray[np.int64]) -> bytes:
    """Join the codes into one bit stream.

    Each code is at most 32 bits wide. So in each 64-bit word, except the last, at least one code
    starts, and at most one code continues in the next word.
    """
    ends = np.cumsum(widths)
    total = int(ends[-1])
    starts = ends - widths
    word = starts >> 6
    free = 64 - (starts & 63) - widths  # bits left in the word after the code; negative: it spills
    spills = np.flatnonzero(free < 0)
    shifted = codes << np.maximum(free, 0).astype(np.uint64)
    shifted[spills] = codes[spills] >> (-free[spills]).astype(np.uint64)
    out = np.zeros((total >> 6) + 2, dtype=np.uint64)
    first = np.searchsorted(word, np.arange(int(word[-1]) + 1))
    out[: first.size] = np.bitwise_or.reduceat(shifted, first)
    out[word[spills] + 1] |= codes[spills] << (64 + free[spills]).astype(np.uint64)
    return out.astype(">u8").tobytes()[: total // 8 + 1]  # 1 to 8 bits of padding, as the SDK does


def _as_bytes(data: bytes | Sequence[int]) -> bytes:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if not isinstance(data, list | tuple):
        raise RleError("A brush RLE is a list of bytes; export the region again.")
    try:
        return bytes(data)
    except (TypeError, ValueError):
        raise RleError(
            "A brush RLE holds something that is not a byte; export the region again."
        ) from None


def _read_header(stream: bytes, values: int) -> tuple[int, int, int, int]:
    """Sizes in bits of the four length fields."""
    if 8 * len(stream) < HEADER_BITS:
        raise RleError("A brush RLE is cut short in its header; export the region again.")
    header = int.from_bytes(stream[:7], "big") >> (56 - HEADER_BITS)
    if header >> 21 != values:
        raise RleError(
            f"A brush RLE holds {header >> 21} values where its image needs {values}; "
            "check the region's original_width and original_height."
        )
    if (header >> 16 & 31) + 1 != WORD_BITS:
        raise RleError("A brush RLE has words that are not bytes; export the region again.")
    first, second, third, fourth = ((header >> shift & 15) + 1 for shift in (12, 8, 4, 0))
    return first, second, third, fourth


def _windows(stream: bytes) -> NDArray[np.uint8]:
    """The stream with zeros after it, so that a window of 4 bytes can start at its last byte."""
    return np.frombuffer(stream + bytes(8), dtype=np.uint8)


def _word(windows: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The 32 bits from each bit position, uint32. Only the first 25 bits are valid."""
    byte = at >> 3
    word: NDArray[np.uint32] = windows[byte].astype(np.uint32) << np.uint32(24)
    for k, shift in ((1, 16), (2, 8), (3, 0)):
        word |= windows[byte + k].astype(np.uint32) << np.uint32(shift)
    word <<= (at & 7).astype(np.uint32)
    return word


def _chains(
    windows: NDArray[np.uint8], sizes: tuple[int, int, int, int], total_bits: int, values: int
) -> Iterator[NDArray[np.int64]]:
    """Bit positions of the blocks, in order, one array for each chunk of the stream.

    The start of a block is known only from the block before it. So the step to the next block is
    first computed for every bit of a chunk at once, and the loop then only follows these steps.
    """
    at, seen = HEADER_BITS, 0
    while seen < values:
        if at >= total_bits:
            raise RleError("A brush RLE is cut short; export the region again.")
        begin = at >> 3
        end = min(begin + CHUNK_BYTES, total_bits >> 3)
        bits = np.arange(8 * begin, 8 * end, dtype=np.int64)
        lengths, steps = _steps(windows, bits, sizes)
        length_of, step_of = lengths.data, steps.data  # plain ints, faster than indexing an array
        base, stop = 8 * begin, 8 * end
        positions: list[int] = []
        while at < stop and seen < values:
            positions.append(at)
            seen += length_of[at - base]
            at += step_of[at - base]
        if at > total_bits:
            raise RleError("A brush RLE is cut short; export the region again.")
        if seen > values:
            raise RleError("A brush RLE runs past its last pixel; export the region again.")
        yield np.array(positions, dtype=np.int64)


def _steps(
    windows: NDArray[np.uint8], at: NDArray[np.int64], sizes: tuple[int, int, int, int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Count of values, and size in bits, of the block that would start at each bit position."""
    word = _word(windows, at)
    size = np.array(sizes, dtype=np.uint32)[word >> np.uint32(29) & np.uint32(3)]
    lengths = ((word << np.uint32(3)) >> (np.uint32(32) - size)).astype(np.int32) + 1
    words = np.where(word >> np.uint32(31) == 1, 1, lengths).astype(np.int32)
    return lengths, 3 + size.astype(np.int32) + WORD_BITS * words


def _expand(
    windows: NDArray[np.uint8],
    positions: NDArray[np.int64],
    sizes: tuple[int, int, int, int],
    done: int,
    out: NDArray[np.bool_],
) -> int:
    """Write the blocks' alpha values to ``out``; return how many values are done now.

    A block with the values [start, end) holds the alpha of the pixels [start // 4, end // 4).
    """
    word = _word(windows, positions)
    size = np.array(sizes, dtype=np.int64)[word >> np.uint32(29) & np.uint32(3)]
    lengths, _ = _steps(windows, positions, sizes)
    ends = done + np.cumsum(lengths, dtype=np.int64)
    starts = ends - lengths
    first, stop = starts // 4, ends // 4
    counts = stop - first
    payload = positions + 3 + size
    value = _word(windows, payload) >> np.uint32(24)
    out[int(first[0]) : int(stop[-1])] = np.repeat(value > 127, counts)
    literal = np.flatnonzero((word >> np.uint32(31) == 0) & (counts > 0))
    if literal.size:
        many = counts[literal]
        within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        pixel = np.repeat(first[literal], many) + within
        skipped = 4 * pixel + 3 - np.repeat(starts[literal], many)
        at = np.repeat(payload[literal], many) + WORD_BITS * skipped
        out[pixel] = _word(windows, at) >> np.uint32(24) > 127
    return int(ends[-1])
