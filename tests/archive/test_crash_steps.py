"""SIGKILL at every step between "ended" and "compacted away", enumerated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from engine.archive.steps import Step

ROOT = Path(__file__).resolve().parents[2]
CHILD_S_MAX = 150


def test_every_run_is_there_once_after_a_kill_at_any_step(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.archive.crash_steps", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            printed, complained = child.communicate(timeout=CHILD_S_MAX)
        finally:
            child.kill()
    assert child.returncode == 0, f"{printed}\n{complained}"
    assert int(printed.splitlines()[-1]) >= len(Step)
