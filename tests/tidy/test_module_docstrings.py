"""Every module opens by saying what it owns, before its first import."""

from __future__ import annotations

import ast
import re

from tests.tidy.sources import files, shown

CHARACTERS_MIN = 40
_OPENING = re.compile(r'\s*(?:#[^\n]*\n\s*)*"""(.*?)"""', re.DOTALL)


def docstring_of(suffix: str, text: str) -> str:
    if suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    opening = _OPENING.match(text)
    return opening[1].strip() if opening else ""


def test_every_module_says_what_it_owns() -> None:
    silent = [
        f"{shown(path)}: opens with {length} characters of docstring, at least {CHARACTERS_MIN}: "
        "say what the file owns and what it refuses to know"
        for path in files(suffixes=(".py", ".pyx"))
        if (text := path.read_text(encoding="utf-8")).strip() or path.name != "__init__.py"
        if (length := len(docstring_of(path.suffix, text))) < CHARACTERS_MIN
    ]
    assert not silent, "\n".join(silent)


def test_engine_has_no_empty_package() -> None:
    """Elsewhere an `__init__.py` may be empty; in engine/ it is the first thing a reader opens."""
    empty = [
        shown(path)
        for path in files("engine", "ext", suffixes=(".py",))
        if not path.read_text(encoding="utf-8").strip()
    ]
    assert not empty
