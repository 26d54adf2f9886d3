"""A process that holds a data directory: `python -m tests.faults.holder DIR`.

Appends one record, says so on standard output, and ends when standard input does.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import trio

from engine.base.ids import RunId, TenantId, tenant_id
from engine.config.settings import JournalSettings
from engine.journal.tenants import open_journal
from engine.model.records import RecordKind

TENANT: Final[TenantId] = tenant_id("held")
RUN: Final = RunId(b"\x01" * 16)


async def main(directory: Path) -> None:
    async with open_journal(directory, JournalSettings()) as journal, journal.use(TENANT) as opened:
        await opened.open_segment(RUN).append(RecordKind.RUN_ACCEPTED, b"held", timestamp_us=1)
        sys.stdout.write("open\n")
        sys.stdout.flush()
        await trio.to_thread.run_sync(sys.stdin.read)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
