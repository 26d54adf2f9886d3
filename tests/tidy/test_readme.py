"""What README tells a reader to type exists: make targets, engine commands, modules to run.

Every line of a shell block is read. An `engine` line is run with `--help` behind it, so that a
command, argument or option that is no longer there fails; nothing is executed.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tidy.sources import ROOT

README = ROOT / "README.md"
MAKEFILE = ROOT / "Makefile"

_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_TARGET = re.compile(r"^([\w-]+):(?!=)", re.MULTILINE)
_SETTING = re.compile(r"\w+=")
_SEPARATOR = re.compile(r"[;|&()<>]+")


def shell_lines(markdown: str) -> list[str]:
    lines: list[str] = []
    for language, block in _BLOCK.findall(markdown):
        if language not in ("", "sh", "bash", "shell", "console"):
            continue
        joined = block.replace("\\\n", " ").splitlines()
        prompted = [line[2:] for line in joined if line.startswith("$ ")]
        lines += prompted or joined  # with prompts, the other lines are output
    return lines


def commands(markdown: str) -> list[list[str]]:
    """The words of each simple command, without variables in front and redirections behind."""
    found: list[list[str]] = []
    for line in shell_lines(markdown):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # prose or output with a lone quote is not a command
        command: list[str] = []
        for word in [*words, ";"]:
            if _SEPARATOR.fullmatch(word):
                found.append(command)
                command = []
            elif command or not _SETTING.match(word):
                command.append(word)
    return [command for command in found if command]


def readme_commands(program: str) -> list[list[str]]:
    assert README.exists(), "README.md is missing"
    every = commands(README.read_text(encoding="utf-8"))
    return [command[1:] for command in every if Path(command[0]).name == program]


def test_make_targets_exist() -> None:
    targets = set(_TARGET.findall(MAKEFILE.read_text(encoding="utf-8")))
    named = [word for words in readme_commands("make") for word in words if "=" not in word]
    assert {"demo", "test"} <= set(named), "README shows the two set-up commands"
    assert set(named) <= targets


def test_engine_commands_answer_to_help() -> None:
    program = Path(sys.executable).with_name("engine")
    assert program.exists(), f"{program} is missing: run `make build`"
    failures = []
    for words in sorted({tuple(words) for words in readme_commands("engine")}):
        command = [str(program), *words, "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            failures.append(f"engine {shlex.join(words)}: {result.stderr.strip()}")
    assert not failures, "\n".join(failures)


def test_modules_to_run_exist() -> None:
    missing = [
        words[1]
        for program in ("python", "python3")
        for words in readme_commands(program)
        if words[:1] == ["-m"] and (ROOT / words[1].partition(".")[0]).is_dir()
        if not (path := ROOT.joinpath(*words[1].split("."))).with_suffix(".py").exists()
        and not (path / "__main__.py").exists()
    ]
    assert not missing


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("```sh\nA=1 make demo  # words\n```", [["make", "demo"]]),
        ("```\nengine x \\\n  --y 'a b' | less\n```", [["engine", "x", "--y", "a b"], ["less"]]),
        ("```console\n$ make test && make lint\nok\n```", [["make", "test"], ["make", "lint"]]),
        ("```python\nmake = demo\n```\nmake demo\n", []),
    ],
)
def test_the_reader_finds_commands(block: str, expected: list[list[str]]) -> None:
    assert commands(block) == expected
