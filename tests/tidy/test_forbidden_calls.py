"""What may not be called inside engine/, each with its replacement.

The table is the whole rule. A new entry is a name, what to use instead, and perhaps the one file
that may. Broad excepts are left to ruff (BLE), which sees whether the error is raised again.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.tidy.sources import CYTHON, ROOT, files, shown


class Forbidden(NamedTuple):
    name: str  # dotted; a trailing .* stands for everything in the module
    instead: str
    allowed_in: str = ""


CLOCK = "take an engine.base.clock.Clock, so that tests can move time"
CLOCK_FILE = "engine/base/clock.py"
CHANCE = "take bytes from os.urandom, or a seeded source passed as an argument"
OUTPUT = "raise a typed error, return a value, or let the cli write to its rich console"

TABLE = (
    Forbidden("time.time", CLOCK, CLOCK_FILE),
    Forbidden("time.time_ns", CLOCK, CLOCK_FILE),
    Forbidden("time.monotonic", CLOCK, CLOCK_FILE),
    Forbidden("time.monotonic_ns", CLOCK, CLOCK_FILE),
    Forbidden("time.perf_counter", CLOCK, CLOCK_FILE),
    Forbidden("time.perf_counter_ns", CLOCK, CLOCK_FILE),
    Forbidden("datetime.datetime.now", CLOCK, CLOCK_FILE),
    Forbidden("datetime.datetime.utcnow", CLOCK, CLOCK_FILE),
    Forbidden("datetime.date.today", CLOCK, CLOCK_FILE),
    Forbidden("random.*", CHANCE),
    Forbidden("print", OUTPUT),
)
BARE_EXCEPT = "bare except: name the error that is expected here"


def rule_for(name: str, *, file: str) -> Forbidden | None:
    for rule in TABLE:
        prefix = rule.name.removesuffix("*")
        matches = name.startswith(prefix) if prefix != rule.name else name == rule.name
        if matches and file != rule.allowed_in:
            return rule
    return None


def imported_names(tree: ast.AST) -> dict[str, str]:
    """What each name stands for: `from time import time as now` gives {"now": "time.time"}."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.asname or alias.name.partition(".")[0]
                names[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else None
    return None


def python_problems(text: str, file: str) -> Iterator[str]:
    """Not only calls: `default_factory=time.time` reads the clock as well."""
    tree = ast.parse(text)
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"{file}:{node.lineno}: {BARE_EXCEPT}"
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
            name = dotted(node, names)
            rule = rule_for(name, file=file) if name else None
            if rule:
                yield f"{file}:{node.lineno}: {name} is not used in engine/: {rule.instead}"


def cython_problems(text: str, file: str) -> Iterator[str]:
    """Line by line, since no parser for Cython is at hand; a comment is cut off first."""
    for number, line in enumerate(text.splitlines(), start=1):
        code = line.partition("#")[0]
        if re.match(r"\s*except\s*:", code):
            yield f"{file}:{number}: {BARE_EXCEPT}"
        for rule in TABLE:
            name = re.escape(rule.name.removesuffix("*"))
            ending = "" if rule.name.endswith("*") else r"\s*\("
            if re.search(rf"(?<![\w.]){name}{ending}", code):
                yield f"{file}:{number}: {rule.name} is not used in engine/: {rule.instead}"


def problems(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    find = cython_problems if path.suffix in CYTHON else python_problems
    return find(text, shown(path))


def test_engine_uses_none_of_them() -> None:
    found = [problem for path in files("engine", "ext") for problem in problems(path)]
    assert not found, "\n".join(found)


def test_each_rule_speaks_of_a_file_that_exists() -> None:
    missing = {rule.allowed_in for rule in TABLE if not (ROOT / rule.allowed_in).exists()}
    assert not missing


@pytest.mark.parametrize(
    ("text", "caught"),
    [
        ("import time\ntime.time()", "time.time"),
        ("import time as t\nt.time()", "time.time"),
        ("from time import time_ns as now\nnow()", "time.time_ns"),
        ("import datetime\ndatetime.datetime.now()", "datetime.datetime.now"),
        ("from random import choice\nchoice([1])", "random.choice"),
        ("import random\nx = random.Random", "random.Random"),
        ("print(1)", "print"),
        ("try:\n    pass\nexcept:\n    pass", "bare except"),
        ("import time\ntime.gmtime()\nself.print(1)\nself.random.x()", None),
    ],
)
def test_the_reader_sees_through_aliases(text: str, caught: str | None) -> None:
    found = list(python_problems(text, "engine/some.py"))
    assert [caught] == [problem.split(": ")[1].split(" is ")[0] for problem in found] or (
        caught is None and not found
    )


def test_the_reader_of_cython_skips_comments() -> None:
    text = "x = 1  # print(x)\nprint (x)\ntime.time()\nself.time.time()\n  except :\n"
    lines = [problem.split(":")[1] for problem in cython_problems(text, "ext/some.pyx")]
    assert lines == ["2", "3", "5"]
