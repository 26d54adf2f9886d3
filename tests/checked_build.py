"""The engine with its extensions built with bounds, overflow and None checks, out of place.

Owns the build below build/debug and the environment in which a child process imports it. One
process holds one variant of an extension, so the checked one is always run in a child.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "debug" / "checked"


def build() -> Path:
    """The folder in which `import engine` finds the checked variant. Quick when nothing changed;
    the suite runs in more than one process, and one of them builds at a time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with FOLDER.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build()


def _build() -> Path:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(FOLDER)]
    environment = os.environ | {"ENGINE_EXT_DEBUG": "1"}
    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, f"{built.stdout}\n{built.stderr}"
    extensions = FOLDER / "engine" / "ext"
    extensions.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "engine").iterdir():
        if source.name not in ("ext", "__pycache__"):
            _link(FOLDER / "engine" / source.name, source)
    for source in (ROOT / "ext").glob("*.py"):
        _link(extensions / source.name, source)
    return FOLDER


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink() or link.readlink() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def environment() -> dict[str, str]:
    """For `subprocess.run(..., env=environment())`; `tests` can be imported there as well."""
    # A safe path keeps the working directory, and the release build in it, from coming first.
    return os.environ | {"PYTHONPATH": f"{FOLDER}{os.pathsep}{ROOT}", "PYTHONSAFEPATH": "1"}
