"""A process that appends as fast as it can until it is killed, and says what was acknowledged.

`python -m tests.faults.writer DIR SEED [ROUND]` appends to many runs of two tenants in every way
there is and writes frames to standard output: one before records are handed to the journal, one
after their acknowledgement came. It never ends by itself while somebody reads the frames. Owns
the frames; what the records say is in `derived.py`.
"""

from __future__ import annotations

import functools
import os
import random
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import trio

from engine.base import limits
from engine.base.ids import TenantId
from engine.config.settings import JournalSettings
from engine.journal.layout import run_key
from engine.journal.segment import Segment
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import open_journal
from engine.model.records import NewRecord
from tests.faults.derived import TENANTS, record_at, run_of

RUNS_PER_TENANT: Final = 400
RUNS_PER_ROUND: Final = 60  # of each tenant, each with a task of its own
IN_FLIGHT_PER_RUN_MAX: Final = 16

END_ROW: Final = struct.Struct("<Q")  # the row of a run: the end of its latest transition

# Frames: what, index of the tenant, number of the run, end. "Before `end`" is what each is about.
FRAME: Final = struct.Struct("<cBHI")
SENT: Final = b"s"
ACKNOWLEDGED: Final = b"a"
TRANSITION_SENT: Final = b"S"
TRANSITION_ACKNOWLEDGED: Final = b"A"

Report = Callable[[bytes, int], None]


class Round(NamedTuple):
    directory: Path
    seed: int
    number: int

    @property
    def random(self) -> random.Random:
        return random.Random(f"{self.seed}/{self.number}")


def settings_of(chance: random.Random) -> JournalSettings:
    """Killing the process loses nothing in any mode: what was written, the kernel has."""
    modes: list[Literal["commit", "interval", "os"]] = ["commit", "commit", "interval", "os"]
    return JournalSettings(
        durability=chance.choice(modes),
        # As small as it may be, so that memtables are written out while the writer is killed.
        write_buffer_bytes=limits.write_buffer_total_bytes_min,
    )


class RunWriter:
    """Appends to one run, by one task, so that it knows which offset comes next."""

    def __init__(self, segment: Segment, chance: random.Random, seed: int, report: Report) -> None:
        self._segment = segment
        self._chance = chance
        self._seed = seed
        self._report = report

    async def run(self) -> None:
        ways = [self._append, self._append_many, self._append_nowait, self._append_many_nowait]
        while True:
            await self._chance.choice(ways)()

    def _next(self, count: int) -> tuple[int, int, list[NewRecord]]:
        """What comes next; the parent is told that it may be on the disk from now on."""
        first = self._segment.next_offset
        end = first + count
        self._report(SENT, end)
        records = [record_at(self._seed, self._segment.run_id, at) for at in range(first, end)]
        return first, end, records

    async def _append(self) -> None:
        first, end, [new] = self._next(1)
        await self._segment.append(
            new.kind, new.payload, timestamp_us=new.timestamp_us, expected=first
        )
        self._report(ACKNOWLEDGED, end)

    async def _append_many(self) -> None:
        first, end, records = self._next(self._chance.randint(1, 12))
        self._report(TRANSITION_SENT, end)
        rows = [(run_key(self._segment.run_id), END_ROW.pack(end))]
        await self._segment.append_many(records, rows=rows, expected=first)
        self._report(TRANSITION_ACKNOWLEDGED, end)

    async def _append_nowait(self) -> None:
        first, end, records = self._next(self._chance.randint(1, IN_FLIGHT_PER_RUN_MAX))
        for offset, new in enumerate(records, first):
            self._segment.append_nowait(
                new.kind,
                new.payload,
                timestamp_us=new.timestamp_us,
                effect=functools.partial(self._report, ACKNOWLEDGED, offset + 1),
                expected=offset,
            )
        await self._breathe(end)

    async def _append_many_nowait(self) -> None:
        first, end, records = self._next(self._chance.randint(1, 12))
        self._report(TRANSITION_SENT, end)
        self._segment.append_many_nowait(
            records,
            effects=[functools.partial(self._report, TRANSITION_ACKNOWLEDGED, end)],
            rows=[(run_key(self._segment.run_id), END_ROW.pack(end))],
            expected=first,
        )
        await self._breathe(end)

    async def _breathe(self, end: int) -> None:
        """Go on at once, as long as not too much of this run is in flight."""
        if (
            end - self._segment.durable_offset > IN_FLIGHT_PER_RUN_MAX
            or self._chance.random() < 0.5
        ):
            await self._segment.wait_beyond(end - 1)
        else:
            await trio.lowlevel.checkpoint()


async def write_until_killed(this: Round, frames: int) -> None:
    chance = this.random
    async with (
        open_journal(this.directory, settings_of(chance)) as journal,
        trio.open_nursery() as nursery,
    ):
        for index, tenant in enumerate(TENANTS):
            opened = await journal.pin(tenant)
            for number in chance.sample(range(RUNS_PER_TENANT), RUNS_PER_ROUND):
                writer = _run_writer(opened, this, (index, tenant, number), frames)
                nursery.start_soon(writer.run)


def _run_writer(
    opened: TenantJournal, this: Round, which: tuple[int, TenantId, int], frames: int
) -> RunWriter:
    index, tenant, number = which

    def report(what: bytes, end: int) -> None:
        try:
            os.write(frames, FRAME.pack(what, index, number, end))
        except BrokenPipeError:
            os._exit(1)  # whoever would have killed this process is gone

    segment = opened.open_segment(run_of(this.seed, tenant, number))
    chance = random.Random(f"{this.seed}/{this.number}/{tenant}/{number}")
    return RunWriter(segment, chance, this.seed, report)


def main(this: Round, frames: int) -> None:
    trio.run(write_until_killed, this, frames)


if __name__ == "__main__":
    _, directory_text, seed_text, *round_text = sys.argv
    main(Round(Path(directory_text), int(seed_text), int(*round_text)), sys.stdout.fileno())
