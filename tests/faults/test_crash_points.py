"""Killed in the middle of creating, deleting, recovering, committing: whole or gone, never half.

A process is killed at one change to the file system after another, and each time the directory is
opened again and checked. Where most of the changes are RocksDB's own, only some of them are tried;
ENGINE_TEST_CRASH_POINTS=all tries every one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.processes import run_child


@pytest.mark.parametrize(
    ("story", "step"), [("create", 5), ("delete", 1), ("recover", 15), ("transition", 1)]
)
def test_crash_points(
    story: str, step: int, preloaded: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    step = 1 if os.environ.get("ENGINE_TEST_CRASH_POINTS") == "all" else step
    run_child("crash_points", story, tmp_path, str(step), environment=preloaded("crash_at.c"))
