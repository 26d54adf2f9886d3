"""Which files the tidy tests read, and how long a function in them is.

Owns the list of folders and the exclusion of generated code, so that every rule measures the same
files. Knows no rule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("engine", "ext", "bench", "examples", "tests", "tools")
SKIPPED = (
    ROOT / "engine" / "ext",  # the same files as ext/, by a symlink
    ROOT / "engine" / "wire" / "generated",
)
CYTHON = (".pyx", ".pxd")
SUFFIXES = (".py", ".pyi", *CYTHON)

# The first word of a Cython function; a class, struct or block of declarations also begins so.
_FUNCTION = re.compile(r"(?P<indent>\s*)(?:async\s+def|cpdef|cdef|def)\s+(?P<rest>.*)")
_NOT_A_FUNCTION = re.compile(r"(?:packed\s+)?(?:class|struct|enum|union|extern|fused)\b")
_NAME = re.compile(r"(\w+)\s*\(")


class Function(NamedTuple):
    name: str
    line: int
    length: int


def files(*folders: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Our own sources below the folders, or below all of them, in a stable order."""
    found = [
        path
        for folder in folders or FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes and not any(path.is_relative_to(skip) for skip in SKIPPED)
    ]
    if not folders:
        found.append(ROOT / "setup.py")
    return sorted(found)


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def functions(path: Path) -> Iterator[Function]:
    text = path.read_text(encoding="utf-8")
    return _cython_functions(text) if path.suffix in CYTHON else _python_functions(text)


def classes(path: Path) -> Iterator[Function]:
    """Classes of Python, and how many lines of code each has: without blank lines, remarks and
    docstrings, which are not what has to be kept in mind."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno is not None
            said = set(range(node.lineno, node.end_lineno + 1)) - _docstring_lines(node)
            code = [at for at in said if lines[at - 1].strip() and lines[at - 1].strip()[0] != "#"]
            yield Function(node.name, node.lineno, len(code))


def _docstring_lines(node: ast.AST) -> set[int]:
    found: set[int] = set()
    for inner in ast.walk(node):
        is_named = isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_named and ast.get_docstring(inner) is not None:
            first = inner.body[0]
            found |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return found


def _python_functions(text: str) -> Iterator[Function]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield Function(node.name, node.lineno, node.end_lineno - node.lineno + 1)


def _cython_functions(text: str) -> Iterator[Function]:
    """Cython has no parser to borrow that reports where a function ends, so indentation tells."""
    lines = text.splitlines()
    for first, line in enumerate(lines):
        matched = _FUNCTION.match(line)
        if matched is None or _NOT_A_FUNCTION.match(matched["rest"]):
            continue
        header_end = _header_end(lines, first)
        name = _NAME.search(matched["rest"])
        if name is None or not lines[header_end].split("#")[0].rstrip().endswith(":"):
            continue  # a declaration without a body
        last = _body_end(lines, header_end, indent=len(matched["indent"]))
        yield Function(name[1], first + 1, last - first + 1)


def _header_end(lines: list[str], first: int) -> int:
    """The line on which the parentheses that the header opened are closed again."""
    depth = 0
    for index in range(first, len(lines)):
        depth += lines[index].count("(") - lines[index].count(")")
        if depth <= 0:
            return index
    return len(lines) - 1


def _body_end(lines: list[str], header_end: int, *, indent: int) -> int:
    last = header_end
    for index in range(header_end + 1, len(lines)):
        stripped = lines[index].lstrip()
        if not stripped:
            continue
        if len(lines[index]) - len(stripped) <= indent:
            break
        last = index
    return last
