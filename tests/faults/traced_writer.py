"""A process whose system calls are looked at: appends, and makes each acknowledgement a write(2).

`python -m tests.faults.traced_writer DIR DURABILITY ACKNOWLEDGEMENTS` appends a few records one by
one and then many at once, so that both ways of committing are taken, and writes the mark of each
acknowledged record to the file ACKNOWLEDGEMENTS. It prints how many commits went which way.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

import msgspec
import trio

from engine.base.ids import RunId, tenant_id
from engine.config.settings import JournalSettings
from engine.journal.segment import Segment
from engine.journal.tenant import TenantJournal
from engine.journal.tenants import open_journal
from engine.model.records import RecordKind
from tests.faults.waiting import wait_until

FLUSH_INTERVAL_MS: Final = 50
ONE_BY_ONE: Final = 60
AT_ONCE: Final = 1_500  # more than a batch holds


def mark(number: int) -> bytes:
    return b"mark-%06d;" % number


def payload(number: int) -> bytes:
    # Twice and apart: where the WAL cuts a record in two, one of them stays whole.
    return mark(number) + bytes(40) + mark(number)


async def append_all(opened: TenantJournal, acknowledgements: int) -> None:
    async def append(segment: Segment, number: int) -> None:
        await segment.append(RecordKind.STATE_CHANGED, payload(number), timestamp_us=number)
        os.write(acknowledgements, mark(number))

    def acknowledge(number: int) -> None:
        os.write(acknowledgements, mark(number))

    segment = opened.open_segment(RunId(bytes(16)))
    for number in range(ONE_BY_ONE):
        await append(segment, number)
    async with trio.open_nursery() as nursery:
        for number in range(ONE_BY_ONE, ONE_BY_ONE + AT_ONCE, 2):
            nursery.start_soon(append, segment, number)
            segment.append_nowait(
                RecordKind.STATE_CHANGED,
                payload(number + 1),
                timestamp_us=number,
                effect=lambda number=number: acknowledge(number + 1),
            )
    await segment.wait_beyond(ONE_BY_ONE + AT_ONCE - 1)


async def main(directory: Path, durability: str, acknowledgements: int) -> None:
    settings = msgspec.convert(
        {"durability": durability, "flush_interval_ms": FLUSH_INTERVAL_MS}, JournalSettings
    )
    async with open_journal(directory, settings) as journal:
        async with journal.use(tenant_id("traced")) as opened:
            os.write(acknowledgements, b"begin;")
            await append_all(opened, acknowledgements)
            if durability == "interval":
                await wait_until(lambda: not opened.committer.unsynced)
            os.write(acknowledgements, b"end;")
            statistics = opened.statistics().commits
        sys.stdout.write(msgspec.json.encode(statistics).decode())


if __name__ == "__main__":
    _, directory_text, durability_text, file_text = sys.argv
    descriptor = os.open(file_text, os.O_WRONLY | os.O_CREAT)
    trio.run(main, Path(directory_text), durability_text, descriptor)
