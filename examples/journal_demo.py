"""The journal's promise on one screen: what was acknowledged survives a SIGKILL.

    python -m examples.journal_demo

A child process appends as fast as it can and reports each acknowledgement; it is killed in the
middle of that; then the journal is opened again and everything that was acknowledged is looked for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
from rich.console import Console

from engine.base.clock import system_clock
from engine.base.ids import RunId, TenantId, new_run_id, run_id_text
from engine.config.settings import JournalSettings
from engine.journal.segment import Segment
from engine.journal.tenants import open_journal
from engine.model.payloads import StepCompleted
from engine.model.records import RecordKind
from engine.wire.journal import encode

TENANT = TenantId("demo")
WRITERS = 64
RUN_SECONDS = 1.0
# run id, offset: what the child says once an append is durable.
ACKNOWLEDGEMENT_BYTES = 16 + 8


def payload_of(run: RunId, offset: int) -> bytes:
    output = f'"step {offset} of {run_id_text(run)}"'.encode()
    return encode(StepCompleted(position=offset, name="demo", output=output))


async def append_until_killed(data_dir: Path) -> None:
    async def append_to(segment: Segment) -> None:
        while True:
            offset = await segment.append(
                RecordKind.STEP_COMPLETED,
                payload_of(segment.run_id, segment.next_offset),
                timestamp_us=system_clock.now_us(),
            )
            # Only now: the line above returned, so the record is on the disk.
            os.write(1, segment.run_id + offset.to_bytes(8, "big"))

    async with (
        open_journal(data_dir, JournalSettings()) as journal,
        journal.use(TENANT) as tenant,
        trio.open_nursery() as nursery,
    ):
        for _ in range(WRITERS):
            nursery.start_soon(append_to, tenant.new_segment(new_run_id()))


def write_and_kill(data_dir: Path) -> dict[RunId, int]:
    """How many records of each run were acknowledged before the child was killed."""
    acknowledged: dict[RunId, int] = {}
    with subprocess.Popen(
        [sys.executable, "-m", "examples.journal_demo", "child", str(data_dir)],
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        first = child.stdout.read(ACKNOWLEDGEMENT_BYTES)
        deadline = time.monotonic() + RUN_SECONDS
        said = first
        while time.monotonic() < deadline:
            said += child.stdout.read1(1 << 16)
        child.send_signal(signal.SIGKILL)
        said += child.stdout.read()
    for at in range(0, len(said) - ACKNOWLEDGEMENT_BYTES + 1, ACKNOWLEDGEMENT_BYTES):
        run, offset = RunId(said[at : at + 16]), int.from_bytes(said[at + 16 : at + 24], "big")
        acknowledged[run] = max(acknowledged.get(run, 0), offset + 1)
    return acknowledged


async def recover(data_dir: Path, acknowledged: dict[RunId, int], console: Console) -> int:
    began = time.perf_counter()
    async with (
        open_journal(data_dir, JournalSettings()) as journal,
        journal.use(TENANT) as tenant,
    ):
        console.print(f"  reopened in {(time.perf_counter() - began) * 1e3:.0f} ms")
        report = tenant.wal_report
        if report.cut_bytes:
            console.print(f"  an unfinished write of {report.cut_bytes} bytes was cut off the end")
        found = missing = wrong = 0
        for run, count in acknowledged.items():
            segment = tenant.open_segment(run)
            missing += max(0, count - segment.next_offset)
            found += segment.next_offset
            for start in range(0, segment.next_offset, 10_000):
                for record in segment.read(start):
                    wrong += record.payload != payload_of(run, record.offset)
        console.print(f"  {found:,} records found in {len(acknowledged)} runs, offsets contiguous")
        console.print(
            f"  {missing} acknowledged records missing, {wrong} differing: "
            + ("[green]nothing was lost[/]" if not missing + wrong else "[red]DATA WAS LOST[/]")
        )
    return missing + wrong


def main() -> int:
    if sys.argv[1:2] == ["child"]:
        trio.run(append_until_killed, Path(sys.argv[2]))
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="engine-demo-") as scratch:
        data_dir = Path(scratch) / "data"
        console.print("[bold]1. A process appends records, each fsynced before it is acknowledged")
        acknowledged = write_and_kill(data_dir)
        total = sum(acknowledged.values())
        console.print(f"  {total:,} records acknowledged by {WRITERS} writers in {RUN_SECONDS} s")
        console.print("[bold]2. In the middle of that it is killed with SIGKILL")
        console.print("[bold]3. The journal is opened again")
        lost = trio.run(recover, data_dir, acknowledged, console)
        console.print("[bold]4. An operator looks at it: [/]engine journal verify")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "engine.cli.main",
                "journal",
                "verify",
                f"--data-dir={data_dir}",
            ],
            check=True,
        )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
