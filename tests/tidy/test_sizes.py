"""Functions stay under 70 lines, classes under 250 of code, files under 500, lines under 100
columns, generated code apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.tidy.sources import Function, classes, files, functions, shown

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500
LINE_COLUMNS_MAX = 100
CLASS_LINES_MAX = 250
# Larger from before the rule: they may only get smaller.
LARGER_CLASSES = {"Handle": 270, "Machine": 275}

# A remark to a tool stands where the tool wants it; ruff does not count it either.
_PRAGMA = re.compile(r"\s*# (?:noqa|type: ignore)\b.*$")


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = [
        f"{shown(path)}:{function.line}: {function.name} has {function.length} lines, "
        f"at most {FUNCTION_LINES_MAX}: let the parent branch and move the leaves out"
        for path in files()
        for function in functions(path)
        if function.length > FUNCTION_LINES_MAX
    ]
    assert not too_long, "\n".join(too_long)


def test_no_file_runs_away() -> None:
    too_long = [
        f"{shown(path)}: {lines} lines, at most {FILE_LINES_MAX}: split it by what it owns"
        for path in files()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > FILE_LINES_MAX
    ]
    assert not too_long, "\n".join(too_long)


def test_no_class_runs_away() -> None:
    found = {
        (shown(path), a_class.name): a_class.length
        for path in files("engine", suffixes=(".py",))
        for a_class in classes(path)
    }
    too_long = [
        f"{path}: {name} has {length} lines of code, at most "
        f"{LARGER_CLASSES.get(name, CLASS_LINES_MAX)}: give what it owns to classes of their own"
        for (path, name), length in found.items()
        if length > LARGER_CLASSES.get(name, CLASS_LINES_MAX)
    ]
    assert not too_long, "\n".join(too_long)
    sizes = {name: length for (_, name), length in found.items()}
    assert all(sizes[name] > CLASS_LINES_MAX for name in LARGER_CLASSES), "no longer an exception"


def test_no_line_is_too_wide() -> None:
    too_wide = [
        f"{shown(path)}:{number}: {columns} columns, at most {LINE_COLUMNS_MAX}"
        for path in files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (columns := len(_PRAGMA.sub("", line))) > LINE_COLUMNS_MAX
    ]
    assert not too_wide, "\n".join(too_wide)


PYTHON = """
@staticmethod
async def first(a,
          b):

    return a


class Held:
    def second(self): ...
"""

CYTHON = '''
cdef int declared(int a)
cdef object value = made(1)
cdef extern from "x.h":
    int foreign(int a)

cdef class Held(Base):
    cpdef inline bytes first(
        self, int a=len("x")
    ):
        """Text."""

        # a remark
        return b""

    cdef int field

def second(): return 1

cdef int third(int a) except -1 nogil:  # a remark
    return a
'''


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", PYTHON, [Function("first", 3, 4), Function("second", 10, 1)]),
        ("a.pyx", CYTHON, [Function("first", 8, 7), Function("third", 20, 2)]),
    ],
)
def test_the_ruler_measures_right(
    tmp_path: Path, name: str, text: str, expected: list[Function]
) -> None:
    source = tmp_path / name
    source.write_text(text)
    assert list(functions(source)) == expected


def test_the_ruler_of_classes_leaves_out_what_is_said_beside_the_code(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text(
        'class Held:\n    """Two\n    lines."""\n\n    # a remark\n    def first(self):\n'
        '        """One."""\n        return """\n        no docstring"""\n'
    )
    assert [(found.name, found.length) for found in classes(source)] == [("Held", 4)]
