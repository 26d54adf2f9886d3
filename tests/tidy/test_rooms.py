"""Rooms of the house: no circle of files, no folder with more files than the eye takes in.

The contracts of import-linter keep the rooms apart; these rules look inside them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.tidy.sources import ROOT, files, shown

FOLDER_FILES_MAX = 16


def modules() -> dict[str, Path]:
    """Without the packages' own files: a package gathers what is in it, for those outside."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in files("engine", suffixes=(".py",))
        if path.name != "__init__.py"
    }


def imported(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Also what is imported for the types alone: a circle for a reader is a circle."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
            yield from (name for name in names if name in known)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_circle_of_files() -> None:
    known = modules()
    graph = {name: set(imported(path, known)) - {name} for name, path in known.items()}
    found = circle(graph)
    assert not found, f"a circle: {' <- '.join(found)}; what one needs of the other is a Protocol"


def test_no_folder_with_more_files_than_one_takes_in() -> None:
    counts: dict[Path, int] = {}
    for path in files("engine", suffixes=(".py",)):
        counts[path.parent] = counts.get(path.parent, 0) + 1
    crowded = [
        f"{shown(folder)}: {count} files, at most {FOLDER_FILES_MAX}: divide it by what a reader "
        "looks for"
        for folder, count in counts.items()
        if count > FOLDER_FILES_MAX
    ]
    assert not crowded, "\n".join(crowded)


def test_a_circle_is_found(tmp_path: Path) -> None:
    texts = {
        "engine.a": "from engine import b",
        "engine.b": "def f():\n    from engine.c import x",
        "engine.c": "if TYPE_CHECKING:\n    import engine.a",
        "engine.d": "from engine.a import y",
    }
    known = {name: tmp_path / f"{name}.py" for name in texts}
    for name, text in texts.items():
        known[name].write_text(text)
    graph = {name: set(imported(path, known)) for name, path in known.items()}
    assert set(circle(graph)) == {"engine.a", "engine.b", "engine.c"}
    assert circle({"engine.d": {"engine.a"}, "engine.a": set()}) == []
