"""A failed fsync stops the tenant rather than carrying on: real processes in which fsync fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.processes import run_child


@pytest.mark.parametrize(
    "scenario",
    [
        "commit_fails",
        "commit_fails_with_many_in_flight",
        "whole_disk_fails",
        "table_fails",
        "flush_tick_fails",
        "sync_finds_no_room",
        "new_folder_fails",
        "stopped_tenant_is_closed_when_idle",
        "system_store_fails",
    ],
)
def test_failed_fsync(
    scenario: str, preloaded: Callable[[str], dict[str, str]], tmp_path: Path
) -> None:
    environment = {**preloaded("failing_fsync.c"), "FAILING_FSYNC": str(tmp_path / "orders")}
    run_child("failing_fsync", scenario, tmp_path, environment=environment)
