"""Reads a scenario and plays it: commands, and under each what must come of it.

A scenario is a text file. Lines that begin with `#` are for the reader. A command stands in a line
of its own, under it `----`, and under that what is told: by the workers, or as the answer. `ok`:
nothing is. All commands are in `commands.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.scenarios.commands import perform
from tests.scenarios.world import World

SEPARATOR = "----"


class Step(NamedTuple):
    comment: str
    command: str
    expected: str


class Unexpected(AssertionError):
    """Something else came of a command than the scenario says."""


def parse(text: str) -> Iterator[Step]:
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        comment = [line for line in lines if line.startswith("#")]
        rest = lines[len(comment) :]
        if not rest:
            yield Step("\n".join(comment), "", "")
            continue
        command, separator, *expected = rest
        assert separator == SEPARATOR, f"under {command!r} stands {separator!r}, not {SEPARATOR!r}"
        yield Step("\n".join(comment), command, "\n".join(expected))


async def play(scenario: str, folder: Path) -> str:
    """The scenario with what was found in the place of what was expected."""
    world = World(folder)
    found: list[str] = []
    await world.open()
    try:
        for step in parse(scenario):
            block = [step.comment] if step.comment else []
            if step.command:
                answer = await _outcome(world, step.command)
                block += [step.command, SEPARATOR, answer]
            found.append("\n".join(block))
    finally:
        await world.close()
    return "\n\n".join(found) + "\n"


async def _outcome(world: World, command: str) -> str:
    world.told.clear()
    answers = await perform(world, command)
    await world.settle()
    return "\n".join([*world.told, *answers]) or "ok"


def compare(name: str, expected: str, found: str) -> None:
    if expected != found:
        diff = difflib.unified_diff(
            expected.splitlines(), found.splitlines(), "expected", "found", lineterm="", n=6
        )
        raise Unexpected(f"{name}\n" + "\n".join(diff))
