"""Reads numbers from Label Studio's JSON, which may hold anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from model.errors import PromptError

FARTHEST = 1000.0  # percent; as far outside the image as any drawing goes


def percent(value: Mapping[str, Any], name: str, default: Any = None) -> float:
    """The entry ``name`` in percent, limited to ``FARTHEST`` in both directions.

    Raises:
        PromptError: it is not a finite number.
    """
    return bounded(value.get(name, default))


def bounded(value: Any) -> float:
    """A value in percent, limited to ``FARTHEST`` in both directions. Raises as ``number``."""
    return min(max(number(value), -FARTHEST), FARTHEST)


def number(value: Any) -> float:
    """A value as a finite number.

    Raises:
        PromptError: it is not a finite number.
    """
    try:
        found = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):  # JSON's whole numbers may be larger than any float.
        found = math.nan
    if not math.isfinite(found):
        raise PromptError("A mark has a coordinate that is not a number; draw it again.")
    return found
