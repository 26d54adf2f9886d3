"""Kills a process at every change it makes to the file system, one after the other.

`python -m tests.faults.crash_points STORY FOLDER STEP` (crash_at.c is preloaded) plays a story in a
process that dies at its first change, then in one that dies at a later one, until one comes to the
end; past the first few only each STEP-th is tried. Then the same with writes that are half done.
After each, another process opens the directory and checks. All are forks of this one, which has
imported everything and opened nothing.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, NamedTuple

import trio

from engine.base.ids import RunId, tenant_id
from engine.config.settings import JournalSettings
from engine.journal.tenants import Journal, open_journal
from engine.model.records import NewRecord, RecordKind
from tests.faults.processes import in_child

TENANT: Final = tenant_id("subject")
BYSTANDER: Final = tenant_id("bystander")
RUN: Final = RunId(b"\x01" * 16)
KIND: Final = RecordKind.STATE_CHANGED
RECORDS: Final = 3
WAKE_MS: Final = 1_000
CHANGES_MAX: Final = 1_000
OWN_CHANGES: Final = 16  # the first ones are the engine's: its directory, its files

Say = Callable[[str], None]  # goes to the checking process, whatever happens afterwards
Arm = Callable[[], None]  # changes count from here on


def payload(number: int) -> bytes:
    return b"record %d " % number * 100


def say_nothing(line: str) -> None:
    pass


async def append(journal: Journal, tenant: str, say: Say = say_nothing) -> None:
    segment = (await journal.pin(tenant_id(tenant))).open_segment(RUN)
    for number in range(segment.next_offset, segment.next_offset + RECORDS):
        await segment.append(KIND, payload(number), timestamp_us=1)
        say(f"{tenant} {number + 1}")


def records_of(journal: Journal, tenant: str) -> int:
    """How many records the tenant has; each is the one that belongs there."""
    opened = next(opened for opened in journal.open_tenants() if opened.tenant_id == tenant)
    records = opened.open_segment(RUN).read()
    assert [record.payload for record in records] == list(map(payload, range(len(records))))
    return len(records)


# ---- stories: what is there before, what happens, what must hold afterwards ----


async def nothing(directory: Path) -> None:
    pass


async def two_tenants(directory: Path) -> None:
    async with open_journal(directory, JournalSettings()) as journal:
        for tenant in (TENANT, BYSTANDER):
            journal.system.set_wake(tenant, WAKE_MS)
            await append(journal, tenant)


async def two_tenants_left_open(directory: Path) -> None:
    """As a killed process leaves them: nothing written out, everything in the WAL."""
    async with open_journal(directory, JournalSettings()) as journal:
        for tenant in (TENANT, BYSTANDER):
            await append(journal, tenant)
        os._exit(0)


async def create(directory: Path, say: Say, arm: Arm) -> None:
    arm()
    async with open_journal(directory, JournalSettings()) as journal:
        await append(journal, TENANT, say)
        os._exit(0)


async def created(directory: Path, said: list[str]) -> None:
    """Nothing of it, or a tenant that can be used, with every record that was acknowledged."""
    async with open_journal(directory, JournalSettings()) as journal:
        assert set(journal.tenant_ids()) <= {TENANT}
        await journal.pin(TENANT)
        assert len(said) <= records_of(journal, TENANT) <= min(len(said) + 1, RECORDS)
        await append(journal, TENANT)


async def delete(directory: Path, say: Say, arm: Arm) -> None:
    async with open_journal(directory, JournalSettings()) as journal:
        arm()
        await journal.delete_tenant(TENANT)
        say("deleted")
        os._exit(0)


async def deleted(directory: Path, said: list[str]) -> None:
    """Whole or gone, and nothing is left lying about."""
    async with open_journal(directory, JournalSettings()) as journal:
        found = {path.name for path in (directory / "segments").iterdir()}
        assert found <= {f"tenant={TENANT}", f"tenant={BYSTANDER}"}
        is_gone = TENANT not in journal.tenant_ids()
        assert is_gone or "deleted" not in said
        await journal.pin(BYSTANDER)
        assert records_of(journal, BYSTANDER) == RECORDS
        due = [tenant for _, tenant in journal.system.due_tenants(WAKE_MS)]
        assert due == ([BYSTANDER] if is_gone else [BYSTANDER, TENANT]), due
        await journal.pin(TENANT)
        assert records_of(journal, TENANT) == (0 if is_gone else RECORDS)
        await append(journal, TENANT)


async def recover(directory: Path, say: Say, arm: Arm) -> None:
    arm()
    async with open_journal(directory, JournalSettings()) as journal:
        for tenant in (TENANT, BYSTANDER):
            await append(journal, tenant, say)


async def recovered(directory: Path, said: list[str]) -> None:
    async with open_journal(directory, JournalSettings()) as journal:
        for tenant in (TENANT, BYSTANDER):
            acknowledged = RECORDS + len([line for line in said if line.startswith(tenant)])
            await journal.pin(tenant)
            assert acknowledged <= records_of(journal, tenant) <= acknowledged + 1


async def transition(directory: Path, say: Say, arm: Arm) -> None:
    """Records and a row that must never be apart, in one batch longer than a block of the WAL."""
    async with open_journal(directory, JournalSettings()) as journal:
        opened = await journal.pin(TENANT)
        segment = opened.open_segment(RUN)
        records = [NewRecord(KIND, payload(number), 1) for number in range(RECORDS, RECORDS + 60)]
        arm()
        await segment.append_many(records, rows=[(b"r", b"there")])
        say("done")
        os._exit(0)


async def transition_is_whole(directory: Path, said: list[str]) -> None:
    async with open_journal(directory, JournalSettings()) as journal:
        opened = await journal.pin(TENANT)
        is_there = opened.row(b"r") is not None
        assert is_there or "done" not in said
        assert records_of(journal, TENANT) == RECORDS + (60 if is_there else 0)


class Story(NamedTuple):
    before: Callable[[Path], Awaitable[None]]
    play: Callable[[Path, Say, Arm], Awaitable[None]]
    check: Callable[[Path, list[str]], Awaitable[None]]


STORIES: Final = {
    "create": Story(nothing, create, created),
    "delete": Story(two_tenants, delete, deleted),
    "recover": Story(two_tenants_left_open, recover, recovered),
    "transition": Story(two_tenants, transition, transition_is_whole),
}

# ---- the processes ----


def told(call: Callable[[Say], None]) -> tuple[int, list[str]]:
    """The exit code of a process that does this, and what it had said until then."""
    ours, theirs = os.pipe()
    exit_code = in_child(call, lambda line: _write(theirs, line))
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        return exit_code, pipe.read().splitlines()


def _write(descriptor: int, line: str) -> None:
    os.write(descriptor, f"{line}\n".encode())


def die_at(change: int, story: Story, directory: Path, *, torn: bool) -> bool:
    """Play the story until that change, check what is left; False if the story ended before."""

    def arm() -> None:
        ctypes.CDLL(None).crash_arm(ctypes.c_long(change), ctypes.c_int(torn))

    def play(say: Say) -> None:
        trio.run(story.play, directory, say, arm)

    exit_code, said = told(play)
    assert exit_code in (0, -signal.SIGKILL), f"the story itself failed in {directory}"
    checked = in_child(trio.run, story.check, directory, said)
    assert checked == 0, f"killed at change {change} (torn: {torn}), see {directory}"
    return exit_code != 0


def main(name: str, folder: Path, step: int) -> None:
    story = STORIES[name]
    before = folder / "before"
    assert in_child(trio.run, story.before, before) == 0
    for torn in (False, True):
        for change in [*range(1, OWN_CHANGES), *range(OWN_CHANGES, CHANGES_MAX, step)]:
            directory = folder / f"killed-at-{change}{'-torn' * torn}"
            if before.exists():
                shutil.copytree(before, directory)
            if not die_at(change, story, directory, torn=torn):
                break
            shutil.rmtree(directory)
        else:
            raise AssertionError(f"{name} never came to its end")
        print(f"{name} makes {'writes' if torn else 'changes'} up to {change}")


if __name__ == "__main__":
    _, name_text, folder_text, step_text = sys.argv
    main(name_text, Path(folder_text), int(step_text))
