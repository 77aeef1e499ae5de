"""docs/architecture.md tells three journeys; the files it names exist and lead to each other."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
JOURNEYS = ("A click", "An accepted mask", "An image")
CONTAINER = "pipeline/runtime.py"
QUEUE = "pipeline/queue.py"
MOST_FILES = 10
ARROW = re.compile(
    r'^\s+(\w)(?:\["([\w/.]+)"\])? (-->|-\.->|==>) (\w)\["([\w/.]+)"\]$', re.MULTILINE
)


def journey(title: str) -> str:
    return PAGE.split(f"### {title}\n")[1].split("\n### ")[0]


def arrows(title: str) -> list[tuple[str, str, str]]:
    """(file, kind of arrow, file) of a journey's picture, from the top."""
    names: dict[str, str] = {}
    found = []
    for first, path, kind, second, target in ARROW.findall(journey(title)):
        names |= {first: path} if path else {}
        names[second] = target
        found.append((names[first], kind, target))
    return found


@cache
def imports(path: str) -> set[str]:
    """The files that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            found |= {f"{name.replace('.', '/')}.py" for name in names}
    return found


@pytest.mark.parametrize("title", JOURNEYS)
def test_a_journey_is_told_by_few_files_that_exist(title: str) -> None:
    told = [name for first, _, second in arrows(title) for name in (first, second)]
    files = list(dict.fromkeys(told))

    assert 1 < len(files) <= MOST_FILES
    assert all((ROOT / name).is_file() for name in files)
    steps = re.findall(r"^\d+\. `([\w.]+)`", journey(title), re.MULTILINE)
    assert steps == [Path(name).name for name in files]  # each is explained, in this order


@pytest.mark.parametrize("title", JOURNEYS)
def test_each_file_of_a_journey_leads_to_the_next(title: str) -> None:
    for first, kind, second in arrows(title):
        match kind:
            case "-->":
                assert second in imports(first), (first, second)
            case "-.->":  # by name, through the queue
                assert QUEUE in imports(first) & imports(second), (first, second)
            case "==>":  # a part of the container
                assert second in imports(CONTAINER), second
                uses = "runtime." in (ROOT / first).read_text()
                assert uses or first in imports(CONTAINER), first  # or is handed it itself


def contracts() -> dict[str, list[str]]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found: list[dict[str, Any]] = config["tool"]["importlinter"]["contracts"]
    return {each["containers"][0]: each["layers"] for each in found if "containers" in each}


@pytest.mark.parametrize("top", ["pipeline", "model", "backend"])
def test_the_layers_of_the_page_are_those_that_are_checked(top: str) -> None:
    table = PAGE.split(f"| `{top}`, from the top")[1].split("\n\n")[0]
    told = [
        name
        for line in table.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    held = [name for layer in contracts()[top] for name in re.findall(r"\w+", layer)]

    assert told == held
