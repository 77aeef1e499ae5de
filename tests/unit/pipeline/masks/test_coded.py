from __future__ import annotations

import numpy as np
import pytest

from model.masks import Mask
from pipeline.errors import RleError
from pipeline.masks import rle as codec
from pipeline.masks.coded import CodedMask


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the codec's functions, as often as they were called."""
    made: list[str] = []
    for name in ("encode", "decode"):
        real = getattr(codec, name)

        def counting(*arguments: object, name: str = name, real: object = real) -> object:
            made.append(name)
            return real(*arguments)  # type: ignore[operator]

        monkeypatch.setattr(codec, name, counting)
    return made


def block() -> Mask:
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:9, 5:17] = True
    return mask


def test_the_code_of_pixels_is_made_once_and_only_when_it_is_wanted(calls: list[str]) -> None:
    pixels = block()
    coded = CodedMask.of_mask(pixels)
    assert coded.mask is pixels
    assert (coded.height, coded.width) == (20, 30)
    assert calls == []
    first, again = coded.rle, coded.rle
    assert first is again
    assert calls == ["encode"]
    assert np.array_equal(codec.decode(first, 20, 30), pixels)


def test_the_pixels_of_a_code_are_made_once_and_only_when_they_are_wanted(
    calls: list[str],
) -> None:
    code = codec.encode(block())
    calls.clear()
    coded = CodedMask.of_rle(code, 20, 30)
    assert coded.rle is code
    assert (coded.height, coded.width) == (20, 30)
    assert calls == []
    first, again = coded.mask, coded.mask
    assert first is again
    assert calls == ["decode"]
    assert np.array_equal(first, block())


def test_a_damaged_code_is_told_when_its_pixels_are_wanted() -> None:
    coded = CodedMask.of_rle(b"damaged", 20, 30)
    assert coded.rle == b"damaged"
    for _ in range(2):
        with pytest.raises(RleError):
            _ = coded.mask


def test_an_empty_code_is_damaged_too() -> None:
    with pytest.raises(RleError):
        _ = CodedMask.of_rle(b"", 20, 30).mask
