"""A process that writes many records and then says so, for benchmarks that kill it or watch it.

`python -m bench.flood DIR RECORDS` prints `fifth MB` and `end MB` (its resident memory at the
first fifth and at the end) and waits to be killed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import trio

from bench.machine import resident_mb
from bench.records import PAYLOAD
from engine.base.ids import TenantId, new_run_id
from engine.config.settings import JournalSettings
from engine.journal.tenants import open_journal
from engine.model.records import NewRecord, RecordKind

RECORDS_PER_APPEND = 250
APPENDS_PER_RUN = 4
WRITERS = 4


def _say(word: str) -> None:
    sys.stdout.write(f"{word} {resident_mb():.1f}\n")
    sys.stdout.flush()


async def main(data_dir: Path, total: int) -> None:
    record = NewRecord(RecordKind.STEP_COMPLETED, PAYLOAD, 1)
    written = 0

    async def write_runs() -> None:
        nonlocal written
        while written < total:
            segment = tenant.new_segment(new_run_id())
            for _ in range(APPENDS_PER_RUN):
                before = written
                written += RECORDS_PER_APPEND
                await segment.append_many([record] * RECORDS_PER_APPEND)
                if before < total // 5 <= written:
                    _say("fifth")

    async with (
        open_journal(data_dir, JournalSettings(durability="os")) as journal,
        journal.use(TenantId("bench")) as tenant,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(WRITERS):
                nursery.start_soon(write_runs)
        _say("end")
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                return


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
