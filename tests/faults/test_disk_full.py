"""Disk full: nothing is acknowledged that is not there, reads go on, writing resumes by itself.

Each scenario of `small_disk.py` has a file system of its own, mounted in a mount namespace that
goes with the process.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

import pytest

from tests.faults.processes import run_child
from tests.faults.small_disk import DISK_BYTES, SMALL

MOUNT = f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$0" && exec "$@"'


@functools.cache
def namespace() -> list[str]:
    """The command that gives a process mounts of its own, on this machine."""
    command = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    shell = [*command, "sh", "-c", MOUNT]
    try:
        result = subprocess.run([*shell, "/mnt", "true"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("unshare is missing: apt-get install util-linux mount")
    if result.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {result.stderr.decode().strip()}")
    return shell


@pytest.mark.parametrize(
    "scenario",
    [
        "log_is_full",
        "full_again_and_again",
        "table_is_full",
        "reads_go_on_while_it_resumes",
        "new_tenant_while_full",
        "close_while_full",
        "idle_close_while_full",
        "killed_while_full",
    ],
)
def test_disk_full(scenario: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = [*namespace(), str(disk)]
    run_child("small_disk", scenario, disk / "data", disk, tmp_path, inside=inside)


def test_other_tenants_go_on(tmp_path: Path) -> None:
    disk = tmp_path / "data" / "segments" / f"tenant={SMALL}"
    disk.mkdir(parents=True)
    inside = [*namespace(), str(disk)]
    run_child("small_disk", "others_go_on", tmp_path / "data", disk, tmp_path, inside=inside)
