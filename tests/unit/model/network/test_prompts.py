"""A prompt that cannot mean anything is refused in a sentence; one that can is not."""

from __future__ import annotations

import numpy as np
import pytest

from model.errors import PromptError
from model.network.prompts import (
    MAX_POINTS,
    MAX_PROMPTS,
    MAX_TEXT,
    Box,
    Click,
    Polygon,
    Prompt,
    Scribble,
    check_prompt,
)

LINE = ((1.0, 1.0), (5.0, 5.0))


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(),
        Prompt((Click(float("nan"), 1),)),
        Prompt((Click(1, float("inf")),)),
        Prompt(boxes=(Box(0, 0, float("nan"), 1),)),
        Prompt(polygons=(Polygon(()),)),
        Prompt(polygons=(Polygon(((1, 1), (float("nan"), 2), (3, 3))),)),
        Prompt(polygons=(Polygon(((1, 1), ("2", 2), (3, 3))),)),  # type: ignore[arg-type]
        Prompt(polygons=(Polygon(((1, 10**400), (2, 2))),)),
        Prompt(polygons=(Polygon(((1, 1, 1), (2, 2, 2))),)),  # type: ignore[arg-type]
        Prompt(polygons=(Polygon(LINE * MAX_POINTS),)),
        Prompt(scribbles=(Scribble(()),)),
        Prompt(scribbles=(Scribble(((float("-inf"), 0),)),)),
        Prompt(scribbles=(Scribble(LINE, width=0),)),
        Prompt(scribbles=(Scribble(LINE, width=-3),)),
        Prompt(scribbles=(Scribble(LINE, width=float("nan")),)),
        Prompt((Click(1, 1),), mask=np.zeros((0, 4), np.float32)),
        Prompt((Click(1, 1),), mask=np.zeros(4, np.float32)),
        Prompt((Click(1, 1),), mask=np.full((2, 2), np.nan, np.float32)),
        Prompt((Click(1, 1),) * (MAX_PROMPTS + 1)),
        Prompt(scribbles=(Scribble(LINE),) * (MAX_PROMPTS + 1)),
        Prompt(text=""),
        Prompt(text="  "),
        Prompt(text="a\0b"),
        Prompt(text="a\ndog"),
        Prompt(text="x" * (MAX_TEXT + 1)),
        Prompt((Click(1, 1),), text=""),
    ],
)
def test_a_prompt_without_meaning_is_refused_in_a_sentence(prompt):
    with pytest.raises(PromptError, match=r"\.$"):
        check_prompt(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt((Click(1, 1),) * MAX_PROMPTS),
        Prompt(polygons=(Polygon(((0, 0), (0, 9), (9, 9), (9, 0)) * 2_500),)),
        Prompt(polygons=(Polygon(((4, 4),)),)),
        Prompt(boxes=(Box(4, 4, 4, 4),)),
        Prompt(scribbles=(Scribble(((4, 4),), width=1e9),)),
        Prompt(mask=np.zeros((3, 4), np.float32)),
        Prompt(text="der Hund links"),
    ],
)
def test_very_large_and_very_small_prompts_are_no_error(prompt):
    check_prompt(prompt)
