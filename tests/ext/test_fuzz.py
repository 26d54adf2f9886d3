"""The compiled code's boundaries under damaged bytes, in the release build and in one that checks
every index, overflow and None.

ENGINE_FUZZ_SECONDS=3600 makes each of the fuzz tests that long, with a new seed every time; the
seed is in the failure's message.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import checked_build

ROUNDS = 30_000
ROUNDS_CHECKED = 10_000
SECONDS = float(os.environ.get("ENGINE_FUZZ_SECONDS", "0"))


def fuzz(rounds: int, folder: Path, environment: dict[str, str]) -> dict[str, object]:
    last_input = folder / "last-input"
    seed = time.time_ns() if SECONDS else 1
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.ext.fuzz"]
    command += ["--seed", str(seed), "--last-input", str(last_input)]
    command += ["--seconds", str(SECONDS)] if SECONDS else ["--rounds", str(rounds)]
    ended = subprocess.run(
        command,
        cwd=checked_build.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS + 300,
    )
    fed = last_input.read_text().partition("\n")[0] if last_input.exists() else "nothing"
    assert ended.returncode == 0, f"seed {seed}, last input: {fed}\n{ended.stderr}"
    report: dict[str, object] = json.loads(ended.stdout)
    return report


def test_damaged_bytes_never_crash_the_release_build(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(checked_build.ROOT)}
    report = fuzz(ROUNDS, tmp_path, environment)
    assert str(checked_build.FOLDER) not in str(report["build"])
    assert_both_outcomes_were_seen(report)


def test_damaged_bytes_never_crash_the_checked_build(
    tmp_path: Path, checked_environment: dict[str, str]
) -> None:
    report = fuzz(ROUNDS_CHECKED, tmp_path, checked_environment)
    assert str(checked_build.FOLDER) in str(report["build"])
    assert_both_outcomes_were_seen(report)


def assert_both_outcomes_were_seen(report: dict[str, object]) -> None:
    """A fuzz whose inputs are all refused at the door has looked at nothing."""
    counts = report["counts"]
    assert isinstance(counts, dict)
    for parser in ("feed", "decode_record", "split_key"):
        assert counts[f"{parser} accepted"] > 100, counts
        assert counts[f"{parser} refused"] > 100, counts


# Which variant of the extensions a process has: the suite below must not run on the wrong one.
WHICH_BUILD = "import engine.ext.replay; print(engine.ext.replay.__file__)"


def test_the_whole_suite_holds_in_the_checked_build(checked_environment: dict[str, str]) -> None:
    """Bounds, overflow and None checks find what the release build would get away with."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=checked_build.ROOT,
            env=checked_environment,
            capture_output=True,
            text=True,
            check=False,
        )

    assert str(checked_build.FOLDER) in run("-c", WHICH_BUILD).stdout
    # pythonpath: the repository's root would come first, and with it the release build.
    options = [
        "-q",
        "-o",
        "pythonpath=",
        "-p",
        "no:cacheprovider",
        "-k",
        "not test_fuzz and not twin",
    ]
    ended = run("-m", "pytest", *options, "tests/ext")
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert "passed" in ended.stdout


@pytest.mark.parametrize("payload", ["None", "'text'", "7", "bytearray(3)", "memoryview(b'abc')"])
def test_what_is_not_bytes_never_reaches_a_pointer(payload: str) -> None:
    """In a process of its own: without the check this is a crash, not an exception."""
    program = f"""
from engine.ext.append import PendingQueue, SegmentHead
from engine.ext.replay import RunFold
from engine.base.errors import MalformedRecord
queue, head, fold = PendingQueue(), SegmentHead(bytes(16)), RunFold()
calls = [
    lambda: queue.append(head, None, 3, {payload}, 1),
    lambda: queue.append_transition(head, None, [(3, 0, 1, b""), (3, 0, 1, {payload})], [], []),
    lambda: fold.feed({payload}),
    lambda: fold.feed_all([{payload}]),
    lambda: SegmentHead({payload}),
]
for number, call in enumerate(calls):
    try:
        call()
    except (TypeError, AssertionError, MalformedRecord):
        continue
    raise SystemExit(f"call {{number}} took it")
assert queue.is_empty and head.next_offset == 0 and fold.next_offset == 0
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=checked_build.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
