"""When is a record on the disk: looked at from outside, in the system calls of a process.

In mode `commit` the fsync of the WAL that carries a record has returned before its acknowledgement
leaves; `interval` syncs at most every N ms, `os` not at all.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from engine.journal.committer import CommitStatistics
from tests.faults.system_calls import Call, read_trace, trace
from tests.faults.traced_writer import AT_ONCE, FLUSH_INTERVAL_MS, ONE_BY_ONE

MARK = re.compile(r"mark-(\d{6});")
WRITES = ("write", "pwrite64", "writev", "pwritev")
SYNCS = ("fsync", "fdatasync")
CALLS = ",".join([*WRITES, *SYNCS, "mkdir", "openat"])
EVERYTHING = set(range(ONE_BY_ONE + AT_ONCE))


@dataclass
class Traced:
    """One run of the traced writer: its calls, with paths below `directory`."""

    directory: Path
    statistics: CommitStatistics
    events: list[tuple[Call, bool]]

    @property
    def wal_folder(self) -> str:
        return str(self.directory / "data" / "segments" / "tenant=traced" / "records.rocksdb")

    def is_wal(self, call: Call) -> bool:
        return call.path.startswith(f"{self.wal_folder}/") and call.path.endswith(".log")

    def is_acknowledgement(self, call: Call) -> bool:
        return call.name == "write" and call.path == str(self.directory / "acknowledgements")

    def acknowledging(self) -> list[tuple[Call, bool]]:
        """The events from before the first append to after the last acknowledgement."""
        at = [index for index, (call, _) in enumerate(self.events) if self.is_acknowledgement(call)]
        return self.events[at[0] : at[-1] + 1]


@dataclass
class OnDisk:
    """Which marks are in the WAL, and which of them a sync that returned has made durable."""

    traced: Traced
    written: dict[str, set[int]] = field(default_factory=dict)
    synced: set[int] = field(default_factory=set)
    _syncing: dict[int, set[int]] = field(default_factory=dict)

    def see(self, call: Call, *, returned: bool) -> None:
        if not self.traced.is_wal(call):
            return
        written = self.written.setdefault(call.path, set())
        if call.name in WRITES and returned:
            assert call.result is not None
            assert call.result > 0
            written |= marks_in(call)
        elif call.name in SYNCS and not returned:
            # What a write puts there while the sync is under way may or may not be part of it.
            self._syncing[id(call)] = set(written)
        elif call.name in SYNCS and call.result == 0:
            self.synced |= self._syncing.pop(id(call))

    @property
    def all_written(self) -> set[int]:
        return set().union(*self.written.values())


def marks_in(call: Call) -> set[int]:
    return {int(number) for number in MARK.findall(call.arguments)}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Traced]:
    done: dict[str, Traced] = {}

    def run(durability: str) -> Traced:
        if durability not in done:
            done[durability] = trace_writer(durability, tmp_path_factory.mktemp(durability))
        return done[durability]

    return run


def trace_writer(durability: str, directory: Path) -> Traced:
    command = [sys.executable, "-m", "tests.faults.traced_writer", str(directory / "data")]
    command += [durability, str(directory / "acknowledgements")]
    result = trace(command, CALLS, directory / "trace")
    assert result.returncode == 0, result.stderr
    statistics = msgspec.json.decode(result.stdout, type=CommitStatistics)
    return Traced(directory, statistics, list(read_trace(directory / "trace")))


def test_fsync_precedes_acknowledgement(traced: Callable[[str], Traced]) -> None:
    run = traced("commit")
    disk = OnDisk(run)
    acknowledged: set[int] = set()
    for call, returned in run.events:
        disk.see(call, returned=returned)
        if run.is_acknowledgement(call) and not returned:
            acknowledged |= marks_in(call)
            assert acknowledged <= disk.synced, f"not durable: {acknowledged - disk.synced}"
    assert acknowledged == EVERYTHING
    assert run.statistics.inline > 0, "no commit was made on the event loop's thread"
    assert run.statistics.threaded > 0, "no commit was made on a commit thread"


def test_one_fsync_carries_many_records(traced: Callable[[str], Traced]) -> None:
    run = traced("commit")
    syncs = [call for call, returned in run.acknowledging() if returned and call.name in SYNCS]
    assert ONE_BY_ONE - 1 <= len(syncs) < ONE_BY_ONE + AT_ONCE / 50


def test_every_folder_above_the_wal_is_synced_before_the_first_acknowledgement(
    traced: Callable[[str], Traced],
) -> None:
    """A durable file in a folder that is not durable is lost with the folder."""
    run = traced("commit")
    owed: set[str] = set()
    wals = 0
    for call, returned in run.events:
        if run.is_acknowledgement(call) and marks_in(call):
            break
        made = re.search(r'"([^"]+)"', call.arguments)
        if returned and call.name == "mkdir" and call.result == 0 and made:
            if f"{run.wal_folder}/".startswith(f"{made[1]}/"):
                owed.add(str(Path(made[1]).parent))
        elif returned and call.name == "openat" and made and "O_CREAT" in call.arguments:
            if made[1].startswith(run.wal_folder) and made[1].endswith(".log"):
                owed.add(run.wal_folder)
                wals += 1
        elif returned and call.name in SYNCS and call.result == 0:
            owed.discard(call.path)
    assert wals > 0
    assert not owed, f"not synced after something was made in them: {sorted(owed)}"


def test_interval_syncs_at_most_once_in_an_interval(traced: Callable[[str], Traced]) -> None:
    run = traced("interval")
    disk = OnDisk(run)
    for call, returned in run.events:
        disk.see(call, returned=returned)
        if run.is_acknowledgement(call) and not returned:
            assert marks_in(call) <= disk.all_written, "acknowledged and not handed to the kernel"
    began_s = [
        call.began_s
        for call, returned in run.acknowledging()
        if returned and call.name in SYNCS and run.is_wal(call)
    ]
    assert began_s, "the flush tick never came"
    gaps_s = [after - before for before, after in itertools.pairwise(began_s)]
    # The tick is timed where it begins, the sync where the kernel sees it, a moment later.
    assert all(gap_s > 0.5 * FLUSH_INTERVAL_MS / 1_000 for gap_s in gaps_s), gaps_s
    assert disk.synced >= EVERYTHING, "the last tick left something out"
    # A batch that was being written when its tick came may have been carried by that very sync; the
    # next tick then finds nothing to write.
    traced_s = run.acknowledging()[-1][0].began_s - run.acknowledging()[0][0].began_s
    assert len(began_s) <= run.statistics.syncs <= traced_s / (FLUSH_INTERVAL_MS / 1_000) + 1


def test_os_never_syncs_for_an_acknowledgement(traced: Callable[[str], Traced]) -> None:
    run = traced("os")
    disk = OnDisk(run)
    for call, _ in run.acknowledging():
        assert not (call.name in SYNCS and run.is_wal(call)), f"{call.name}({call.path})"
    for call, returned in run.events:
        disk.see(call, returned=returned)
        if run.is_acknowledgement(call) and not returned:
            assert marks_in(call) <= disk.all_written, "acknowledged and not handed to the kernel"
    assert disk.all_written == EVERYTHING
