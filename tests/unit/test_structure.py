"""The shape of the code, which the docs promise: small folders, short files, one place for SQL."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("model", "pipeline", "backend", "workers")
MOST_MODULES = 16  # in one folder, without its __init__
MOST_LINES = 300  # of a module that gives no reason in its docstring
DEEPEST = 4  # modules in the longest chain of imports inside one package
LONG = re.compile(r"longer\s+than\s+\d+\s+lines", re.IGNORECASE)
# What makes a statement of SQLAlchemy's.
STATEMENTS = {"select", "insert", "update", "delete", "func", "text", "or_", "and_", "exists"}


def sources(*tops: str) -> Iterator[Path]:
    for top in tops:
        yield from sorted((ROOT / top).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever in it."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (ROOT / f"{whole.replace('.', '/')}.py").is_file()
                yield whole if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def folders(*tops: str) -> list[Path]:
    """The packages in these folders, and the folders themselves."""
    return sorted({path.parent for path in sources(*tops)})


@pytest.mark.parametrize(
    "folder", folders(*PACKAGES, "bench", "tests"), ids=lambda path: name_of(path / "x")
)
def test_a_folder_holds_few_modules(folder: Path) -> None:
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]

    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("path", list(sources(*PACKAGES, "bench", "tests")), ids=name_of)
def test_a_module_is_short_or_says_why_not(path: Path) -> None:
    lines = len(path.read_text().splitlines())

    assert lines <= MOST_LINES or LONG.search(ast.get_docstring(tree(path)) or "")


@pytest.mark.parametrize("folder", folders("model", "pipeline", "backend"), ids=str)
def test_chains_of_imports_inside_a_package_are_short(folder: Path) -> None:
    own = ("__init__.py", "__main__.py")
    inside = {name_of(path): path for path in folder.glob("*.py") if path.name not in own}
    below = {name: set(imported(path)) & inside.keys() - {name} for name, path in inside.items()}

    @cache
    def chain(name: str) -> tuple[str, ...]:
        return (name, *max((chain(each) for each in below[name]), key=len, default=()))

    if folder in {ROOT / top for top in PACKAGES}:
        return  # The layers of the top are import-linter's.
    longest = max(map(chain, inside), key=len, default=())

    assert len(longest) <= DEEPEST, longest


@pytest.mark.parametrize(
    "path", [path for path in sources(*PACKAGES) if path.name == "__init__.py"], ids=name_of
)
def test_a_package_says_what_it_holds_and_exports_nothing(path: Path) -> None:
    body = tree(path).body

    assert len(ast.get_docstring(tree(path)) or "") > len("What it holds.")
    if name_of(path) in ("model", "pipeline.record.tables"):
        return  # The public surface; and tables, of which none works without the others.
    assert len(body) == 1


def test_statements_stand_beside_their_tables() -> None:
    for path in sources("pipeline", "backend", "workers"):
        if name_of(path).startswith("pipeline.record"):
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy"):
                names = {alias.name for alias in node.names}
                assert not names & STATEMENTS, (name_of(path), names)


def test_the_tests_mirror_the_packages() -> None:
    """``test_X.py`` or ``test_X_something.py`` stands where module ``X`` does."""
    units = ROOT / "tests" / "unit"
    for test in (path for top in PACKAGES for path in (units / top).rglob("test_*.py")):
        folder = ROOT / test.parent.relative_to(units)
        words = test.stem.removeprefix("test_").split("_")
        names = {"_".join(words[:count]) for count in range(1, len(words) + 1)}
        assert any((folder / f"{name}.py").is_file() for name in names), test


def test_what_stands_above_reaches_into_modules_and_not_into_packages() -> None:
    for path in sources("backend", "workers"):
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "pipeline"
            ):
                continue
            module = str(node.module).replace(".", "/")
            names = {alias.name for alias in node.names}
            modules = {name for name in names if (ROOT / module / f"{name}.py").is_file()}
            is_module = (ROOT / f"{module}.py").is_file()
            is_tables = node.module == "pipeline.record.tables"
            assert is_module or is_tables or names == modules, (name_of(path), node.module)
