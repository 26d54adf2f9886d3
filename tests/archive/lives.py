"""Runs for the archive's tests: written as the runtime writes them, with their state and finished
rows in one transition, and whatever a test wants to be special about them.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.base.clock import ManualClock
from engine.base.ids import RunId, RunIdFactory, run_id_text
from engine.core.apply import apply
from engine.core.state import RunState, encode_state
from engine.ext.offsets import encode_record
from engine.journal.layout import finished_key, open_run_key, run_key
from engine.journal.tenant import TenantJournal
from engine.model import payloads
from engine.model.payloads import Payload
from engine.model.records import NewRecord
from engine.wire import journal as wire

NOW_US = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z

Life = Sequence[tuple[Payload, int]]  # what happened, and when (us)


def completed(
    at_us: int = NOW_US,
    *,
    steps: int = 3,
    given: bytes = b'{"order": 1}',
    output: bytes = b'{"ok": true}',
    component: str = "checkout",
    parent: bytes = b"",
    position: int = 0,
    lasting_us: int = 50_000,
    tags: dict[str, str] | None = None,
) -> list[tuple[Payload, int]]:
    """A run that went well, ended at `at_us`."""
    began = at_us - lasting_us
    life: list[tuple[Payload, int]] = [
        (
            payloads.RunAccepted(
                project_id="shop",
                deployment_id="main",
                component=component,
                component_kind=2,
                input=given,
                parent_run_id=parent,
                parent_position=position,
                tags=tags or {},
            ),
            began,
        ),
        (payloads.RunStarted(attempt=1, lease_epoch=1, worker_id="worker-1"), began + 10),
    ]
    for number in range(1, steps + 1):
        step = payloads.StepCompleted(
            position=number,
            name=f"step-{number}",
            input=b"[1]",
            output=b'{"step": %d}' % number,
            started_ms=began // 1_000,
            finished_ms=began // 1_000 + 4,
            attempt=1,
            lease_epoch=1,
        )
        life.append((step, began + 10 + number))
    life.append((payloads.RunCompleted(output=output, lease_epoch=1), at_us))
    return life


def failed(at_us: int = NOW_US, message: str = "card 4711 declined") -> list[tuple[Payload, int]]:
    life = completed(at_us)[:-1]
    error = payloads.Error(code="card_declined", message=message)
    return [*life, (payloads.RunFailed(error=error, lease_epoch=1), at_us)]


def encoded(life: Life) -> list[bytes]:
    """The records' bytes, as they lie on the disk."""
    return [
        encode_record(wire.kind_of(payload), 0, offset, at_us, wire.encode(payload))
        for offset, (payload, at_us) in enumerate(life)
    ]


def new_ids(at_us: int = NOW_US) -> RunIdFactory:
    return RunIdFactory(ManualClock(at_us))


async def write_run(journal: TenantJournal, run: RunId, life: Life) -> list[bytes]:
    """All of it in one transition; its records' bytes."""
    state = RunState(run_id=run)
    records: list[NewRecord] = []
    for payload, at_us in life:
        records.append(NewRecord(wire.kind_of(payload), wire.encode(payload), at_us))
        apply(state, wire.kind_of(payload), payload, at_us)
    rows: list[tuple[bytes, bytes | None]] = [(open_run_key(run), encode_state(state))]
    if state.is_terminal:
        rows = [
            (open_run_key(run), None),
            (run_key(run), encode_state(state)),
            (finished_key(state.ended_ms, run), b""),
        ]
    await journal.open_segment(run).append_many(records, rows=rows)
    return encoded(life)


async def write_runs(
    journal: TenantJournal, count: int, *, at_us: int = NOW_US, apart_us: int = 1_000
) -> dict[str, list[bytes]]:
    """Many plain runs, one after the other; run id text -> records."""
    ids = new_ids(at_us - 60_000)
    written: dict[str, list[bytes]] = {}
    for number in range(count):
        run = ids()
        life = completed(at_us + number * apart_us, output=b'{"number": %d}' % number)
        written[run_id_text(run)] = await write_run(journal, run, life)
    return written
