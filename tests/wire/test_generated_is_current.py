"""The generated wire code is what the sources in `protos/` give today, byte for byte."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = Path("tools", "generate_protos.py")
GENERATED = Path("engine", "wire", "generated")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_generated_code_is_current(tmp_path: Path) -> None:
    out = tmp_path / "generated"
    # From another directory, so that nothing of the working directory can be in the output.
    subprocess.run([sys.executable, ROOT / TOOL, "--out", out], cwd=tmp_path, check=True)
    fresh, committed = contents(out), contents(ROOT / GENERATED)
    stale = sorted(
        name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)
    )
    assert not stale, f"{GENERATED} is not what protos/ gives ({', '.join(stale)}): make protos"
