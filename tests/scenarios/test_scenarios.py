"""Every scenario comes out as it says, every rule has one, and a wrong one is found out.

`ENGINE_TEST_SCENARIOS=write` writes what was found into the files; read the difference before you
keep it.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest
import trio

from tests.scenarios.runner import Unexpected, compare, play

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("*.txt"))

# Those of the archive have their tests with the archive.
RULES = {
    "AT_MOST_ONE_LEASE_HOLDER",
    "CANCEL_RACE_ONE_WINNER",
    "CONTIGUOUS_SEQUENCE",
    "EVENTUAL_PROGRESS",
    "NO_LOST_ACK",
    "NO_STALE_FENCE_WRITE",
    "REBUILD_EQUALS_STATE",
    "REPLAY_NEVER_REEXECUTES",
    "SIGNAL_FIFO_NO_LOSS",
    "SLOTS_EQUAL_LIVE_LEASES",
    "START_IDEMPOTENT",
    "TENANT_ISOLATION",
    "TERMINAL_ONCE",
    "TIMER_NEVER_EARLY_NEVER_LOST",
    "TRANSPORT_RETRY_IS_NOT_AN_ATTEMPT",
    "WAITING_HOLDS_NO_SLOT",
}


def played(text: str, folder: Path) -> str:
    return trio.run(functools.partial(play, text, folder))


def test_every_rule_has_its_scenario() -> None:
    assert {path.stem for path in FILES} == RULES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path, tmp_path: Path) -> None:
    expected = path.read_text()
    found = played(expected, tmp_path)
    if os.environ.get("ENGINE_TEST_SCENARIOS") == "write":
        path.write_text(found)
    else:
        compare(path.name, expected, found)


RIGHT = """\
worker anna serves checkout
----
ok

start A
----
anna gets A: lease 1, attempt 1

anna reports A: completed
----
anna hears that report 1 of A is durable

show A
----
A is COMPLETED, attempt 1
"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("lease 1, attempt 1", "lease 2, attempt 1"),
        ("anna gets A: lease 1, attempt 1", "ok"),
        ("ok\n", "anna gets A: lease 1, attempt 1\n"),
        ("A is COMPLETED", "A is FAILED"),
    ],
)
def test_a_wrong_expectation_is_found_out(right: str, wrong: str, tmp_path: Path) -> None:
    compare("right", RIGHT, played(RIGHT, tmp_path / "right"))
    scenario = RIGHT.replace(right, wrong, 1)
    with pytest.raises(Unexpected) as raised:
        compare("wrong", scenario, played(scenario, tmp_path / "wrong"))
    lines = str(raised.value).splitlines()
    assert any(line.startswith("-") and wrong.strip() in line for line in lines)
    assert any(line.startswith("+") and right.strip() in line for line in lines)


def test_a_sentence_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="nobody knows what this means: 'anna sings'"):
        played("anna sings\n----\nok\n", tmp_path)
