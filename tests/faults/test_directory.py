"""Whose directory it is, and what is refused before anything is written: other processes, foreign
files, names that are paths, records and rows over their limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from engine.base import limits
from engine.base.errors import (
    DirectoryInUse,
    InvalidName,
    JournalBusy,
    LimitExceeded,
    StorageFailed,
    TenantUnknown,
)
from engine.base.ids import RunId, deployment_id, project_id, tenant_id
from engine.config.settings import JournalSettings
from engine.journal.segment import Segment
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import Journal, open_journal
from engine.model.records import NewRecord, RecordKind
from tests.faults.holder import RUN, TENANT
from tests.faults.processes import ROOT, run_child

KIND = RecordKind.STATE_CHANGED


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below the folder, by path."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


async def open_and_close(directory: Path) -> None:
    async with open_journal(directory, JournalSettings()):
        pass


# ---- one process at a time ----


@contextmanager
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.faults.holder", str(directory)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


async def test_the_second_process_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with holder(directory) as first:
        before = snapshot(directory)
        for _ in range(2):  # a refusal leaves the first one's name where it is
            with pytest.raises(DirectoryInUse) as caught:
                await open_and_close(directory)
            assert f"process {first.pid} " in caught.value.message
            assert "(holder.py " in caught.value.message, "says what it is"
            assert "--data-dir" in caught.value.message, "says what to do"
            assert caught.value.code == "directory_in_use"
        assert snapshot(directory) == before


@pytest.mark.parametrize("ends", ["killed", "by itself"])
async def test_the_directory_is_free_when_its_holder_has_ended(tmp_path: Path, ends: str) -> None:
    directory = tmp_path / "data"
    with holder(directory) as first:
        if ends == "killed":
            first.send_signal(signal.SIGKILL)
        else:
            first.communicate()
        assert first.wait() == (-signal.SIGKILL if ends == "killed" else 0)
        async with open_journal(directory, JournalSettings()) as journal:
            opened = await journal.pin(TENANT, create=False)
            assert [record.payload for record in opened.open_segment(RUN).read()] == [b"held"]
            with pytest.raises(DirectoryInUse, match=f"process {os.getpid()} "):
                await open_and_close(directory)


# ---- directories that cannot be used ----


async def test_a_file_is_not_a_data_directory(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"precious")
    for directory in (file, file / "below"):
        with pytest.raises(StorageFailed) as caught:
            await open_and_close(directory)
        assert str(directory) in caught.value.message
    assert snapshot(tmp_path) == {"data": b"precious"}


@pytest.mark.parametrize("text", ["2\n", "", "1.5", "one", "\x00\xff" * 100])
async def test_another_format_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    directory = tmp_path / "data"
    await open_and_close(directory)
    (directory / "FORMAT").write_text(text)
    before = snapshot(directory)
    with pytest.raises(StorageFailed) as caught:
        await open_and_close(directory)
    assert str(directory) in caught.value.message
    after = snapshot(directory)
    del before["LOCK"], after["LOCK"]  # who had it last
    assert after == before
    (directory / "FORMAT").write_text("1\n")
    await open_and_close(directory)


def test_directories_that_may_not_be_written_are_refused() -> None:
    # Not below tmp_path, whose parents nobody else may enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        lay_out(folder)
        run_child("unprivileged", folder)


def lay_out(folder: Path) -> None:
    """What `unprivileged.py` tries to open as another user: each has one thing wrong."""
    for name, mode in [("read-only", 0o555), ("in-read-only", 0o555), ("unreadable", 0)]:
        (folder / name).mkdir()
        (folder / name).chmod(mode)
    for name in ("format-unreadable", "lock-foreign", "tenant-foreign"):
        trio.run(open_with_tenant, folder / name)
        for path in (folder / name, *(folder / name).rglob("*")):
            path.chmod(0o777)
    (folder / "format-unreadable" / "FORMAT").chmod(0)
    (folder / "lock-foreign" / "LOCK").chmod(0o444)
    for path in (folder / "tenant-foreign" / "segments" / f"tenant={TENANT}").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)


async def open_with_tenant(directory: Path) -> None:
    async with open_journal(directory, JournalSettings()) as journal, journal.use(TENANT):
        pass


# ---- names ----

BAD_NAMES = {
    "empty": "",
    "dot": ".",
    "parent": "..",
    "parent of parent": "../../outside",
    "parent inside": "a/../../outside",
    "absolute": "/tmp/outside",
    "backslash": "..\\outside",
    "NUL": "tenant\x00",
    "newline": "tenant\n",
    "carriage return": "tenant\r",
    "space": "ten ant",
    "leading dot": ".hidden",
    "equals": "tenant=a",
    "percent": "%2e%2e%2f",
    "Cyrillic a": "tenаnt",
    "fullwidth letter": "ｔenant",
    "fullwidth slash": "..／outside",
    "division slash": "..∕outside",
    "fullwidth dots": "．．",
    "Arabic digit": "tenant٣",
    "dotless i": "tıny",
    "combining": "te\u0301nant",
    "zero width": "ten\u200bant",
    "right to left": "\u202etnanet",
    "lone surrogate": "tenant\udc80",
    "one too long": "t" * (limits.name_length_max + 1),
    "far too long": "t" * 100_000,
    "bytes": b"tenant",
    "path": Path("tenant"),
    "number": 7,
    "none": None,
}


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES.keys())
async def test_a_name_that_is_not_one_is_refused(tmp_path: Path, name: object) -> None:
    directory = tmp_path / "deep" / "data"
    async with open_journal(directory, JournalSettings()) as journal:
        before = snapshot(tmp_path)
        for checked in (tenant_id, project_id, deployment_id):
            with pytest.raises(InvalidName) as caught:
                await journal.pin(checked(name))  # type: ignore[arg-type]
            assert caught.value.code == "invalid_name"
            assert len(caught.value.message) < 1_000
        assert snapshot(tmp_path) == before
        assert journal.tenant_ids() == []


async def test_the_longest_name_and_every_allowed_character_are_good(tmp_path: Path) -> None:
    names = ["t" * limits.name_length_max, "-", "_", "-rf", "con", "A", "a", "0"]
    names += ["abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789"]
    async with open_journal(tmp_path, JournalSettings()) as journal:
        for name in names:
            opened = await journal.pin(tenant_id(name))
            await opened.open_segment(RUN).append(KIND, name.encode(), timestamp_us=1)
        assert journal.tenant_ids() == sorted(names)
    async with open_journal(tmp_path, JournalSettings()) as journal:
        for name in names:
            opened = await journal.pin(tenant_id(name), create=False)
            assert [record.payload for record in opened.open_segment(RUN).read()] == [name.encode()]


async def test_what_is_not_a_tenant_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    foreign = tmp_path / "segments"
    foreign.mkdir()
    for name in ("tenant=", "tenant=a b", "tenant=..", "lost+found", f"tenant={'t' * 65}"):
        (foreign / name).mkdir()
    (foreign / "tenant=file").write_bytes(b"precious")
    async with open_journal(tmp_path, JournalSettings()) as journal:
        assert journal.tenant_ids() == []
    assert (foreign / "tenant=file").read_bytes() == b"precious"
    assert (foreign / "tenant=a b").is_dir()


async def test_asking_for_an_unknown_tenant_makes_none(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        before = snapshot(tmp_path)
        for number in range(3):
            with pytest.raises(TenantUnknown):
                await journal.pin(tenant_id(f"unknown-{number}"), create=False)
            with pytest.raises(TenantUnknown):
                await journal.delete_tenant(tenant_id(f"unknown-{number}"))
        assert snapshot(tmp_path) == before


# ---- limits ----

TOO_LONG = bytes(limits.record_payload_bytes_max + 1)
GOOD = NewRecord(KIND, b"good", 1)
Try = Callable[[TenantJournal, Segment], Awaitable[object]]


async def transition_without_waiting(segment: Segment, records: list[NewRecord]) -> None:
    segment.append_many_nowait(records, effects=[lambda: pytest.fail("released")])


async def append_without_waiting(segment: Segment) -> None:
    segment.append_nowait(KIND, TOO_LONG, timestamp_us=1, effect=lambda: pytest.fail("released"))


REFUSED: dict[str, Try] = {
    "record": lambda _, segment: segment.append(KIND, TOO_LONG, timestamp_us=1),
    "record without waiting": lambda _, segment: append_without_waiting(segment),
    "record within a transition": lambda _, segment: segment.append_many(
        [GOOD, NewRecord(KIND, TOO_LONG, 1), GOOD], rows=[(b"r", b"row")]
    ),
    "record within a transition without waiting": lambda _, segment: transition_without_waiting(
        segment, [GOOD, GOOD, NewRecord(KIND, TOO_LONG, 1)]
    ),
    "records in a transition": lambda _, segment: segment.append_many(
        [GOOD] * (limits.records_per_transition_max + 1)
    ),
    "rows in a transition": lambda _, segment: segment.append_many(
        [GOOD], rows=[(b"r", b"row")] * (limits.rows_per_transition_max + 1)
    ),
    "key": lambda opened, _: opened.write_rows(
        [(b"r", b"good"), (b"r" * (limits.key_length_max + 1), b"row")]
    ),
    "empty key": lambda opened, _: opened.write_rows([(b"r", b"good"), (b"", b"row")]),
    "deleted key": lambda opened, _: opened.write_rows(
        [(b"r", b"good"), (b"r" * (limits.key_length_max + 1), None)]
    ),
    "key in a transition": lambda _, segment: segment.append_many(
        [GOOD], rows=[(b"r", b"good"), (b"r" * (limits.key_length_max + 1), b"row")]
    ),
    "row": lambda opened, _: opened.write_rows(
        [(b"r", b"good"), (b"s", bytes(limits.row_bytes_max + 1))]
    ),
    "row in a transition": lambda _, segment: segment.append_many(
        [GOOD], rows=[(b"r", b"good"), (b"s", bytes(limits.row_bytes_max + 1))]
    ),
    "trim beyond the end": lambda _, segment: segment.trim(2),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED.keys())
async def test_over_its_limit_is_refused_whole(tmp_path: Path, attempt: Try) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        opened = await journal.pin(TENANT)
        segment = opened.open_segment(RUN)
        await segment.append(KIND, b"before", timestamp_us=1)
        before = snapshot(tmp_path / "segments")
        with pytest.raises(LimitExceeded) as caught:
            await attempt(opened, segment)
        assert caught.value.code == "limit_exceeded"
        assert segment.next_offset == segment.durable_offset == 1
        await opened.committer.sync()
        assert snapshot(tmp_path / "segments") == before, "something was written"
        await segment.append(KIND, b"after", timestamp_us=1)
        assert [record.payload for record in segment.read()] == [b"before", b"after"]
        assert list(opened.rows(b"r")) == []


async def test_at_its_limit_is_good(tmp_path: Path) -> None:
    payload = bytes(limits.record_payload_bytes_max)
    key, row = b"r" * limits.key_length_max, bytes(limits.row_bytes_max)
    async with open_journal(tmp_path, JournalSettings()) as journal:
        opened = await journal.pin(TENANT)
        await opened.open_segment(RUN).append_many([NewRecord(KIND, payload, 1)], rows=[(key, row)])
        records = [GOOD] * limits.records_per_transition_max
        await opened.open_segment(RunId(b"\x02" * 16)).append_many(records)
    async with open_journal(tmp_path, JournalSettings()) as journal:
        opened = await journal.pin(TENANT)
        [record] = opened.open_segment(RUN).read()
        assert record.payload == payload
        assert opened.row(key) == row
        other = opened.open_segment(RunId(b"\x02" * 16))
        assert other.durable_offset == limits.records_per_transition_max


async def test_a_key_of_the_system_store_over_its_limit_is_refused(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        before = snapshot(tmp_path / "system")
        with pytest.raises(LimitExceeded):
            journal.system.put("keys", "k" * limits.key_length_max, b"value")
        with pytest.raises(LimitExceeded):
            journal.system.put("keys", "k", bytes(limits.row_bytes_max + 1))
        assert snapshot(tmp_path / "system") == before
        journal.system.put("keys", "after", b"value")
        assert [key for key, _ in journal.system.scan("keys")] == ["after"]


# ---- deleting while others come ----


@pytest.mark.parametrize("passes", range(12))
async def test_who_comes_while_a_tenant_is_deleted_loses_nothing(
    tmp_path: Path, passes: int
) -> None:
    """The deletion is refused, or whoever comes after it began gets a new tenant: never the files
    that are about to go."""
    outcomes: list[str] = []

    async def delete(task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await journal.delete_tenant(TENANT)
            outcomes.append("deleted")
        except JournalBusy:
            outcomes.append("refused")

    async with open_journal(tmp_path, JournalSettings()) as journal:
        await append_one(journal, b"old")
        async with trio.open_nursery() as nursery:
            await nursery.start(delete)
            for _ in range(passes):  # so that the other comes at each stage of it
                await trio.lowlevel.checkpoint()
            await append_one(journal, b"new")
        async with journal.use(TENANT, create=False) as opened:
            payloads = [record.payload for record in opened.open_segment(RUN).read()]
    assert (outcomes, payloads) in [(["deleted"], [b"new"]), (["refused"], [b"old", b"new"])]
    async with open_journal(tmp_path, JournalSettings()) as journal:
        async with journal.use(TENANT, create=False) as opened:
            assert [record.payload for record in opened.open_segment(RUN).read()] == payloads
        await journal.delete_tenant(TENANT)
        assert list((tmp_path / "segments").iterdir()) == []


async def append_one(journal: Journal, payload: bytes) -> None:
    async with journal.use(TENANT) as opened:
        await opened.open_segment(RUN).append(KIND, payload, timestamp_us=1)
