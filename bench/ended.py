"""Ended runs for the benchmarks of the archive: three steps each, written as the runtime's rows and
records are, in large batches and past the rules.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

from engine.base.clock import ManualClock
from engine.base.ids import RunId, RunIdFactory
from engine.core.apply import apply
from engine.core.state import RunState, encode_state
from engine.ext.offsets import encode_record, record_key
from engine.journal.layout import finished_key, open_run_key, run_key
from engine.journal.tenant import TenantJournal
from engine.model import payloads
from engine.model.payloads import Payload
from engine.model.records import RecordKind
from engine.wire import journal as wire

BEGIN_US = 1_767_225_600_000_000
RECORDS_PER_RUN = 6
_PER_WRITE = 1_000
_CHANCE = 997  # so many different payloads


class EndedRuns:
    """Makes runs, one after the other, a tenth of a millisecond apart."""

    def __init__(self) -> None:
        self._clock = ManualClock(BEGIN_US)
        self._ids = RunIdFactory(self._clock)
        self._payloads = [_records() for _ in range(_CHANCE)]
        self._made = 0

    @property
    def now_us(self) -> int:
        return self._clock.now_us()

    def write(self, journal: TenantJournal, count: int, *, ended: bool = True) -> list[RunId]:
        runs: list[RunId] = []
        while len(runs) < count:
            records: list[tuple[bytes, bytes]] = []
            rows: list[tuple[bytes, bytes | None]] = []
            more = min(_PER_WRITE, count - len(runs))
            runs += [self._one(records, rows, ended=ended) for _ in range(more)]
            _write(journal, records, rows)
        return runs

    def _one(self, records: list[Any], rows: list[Any], *, ended: bool) -> RunId:
        self._clock.advance_us(100)
        run, now_us = self._ids(), self._clock.now_us()
        made = self._payloads[self._made % _CHANCE][: None if ended else -1]
        self._made += 1
        state = RunState(run_id=run)
        for offset, (kind, payload, data) in enumerate(made):
            at_us = now_us - 5_000 + 1_000 * offset
            apply(state, kind, payload, at_us)
            records.append((record_key(run, offset), encode_record(kind, 0, offset, at_us, data)))
        if ended:
            rows.append((run_key(run), encode_state(state)))
            rows.append((finished_key(state.ended_ms, run), b""))
        else:
            rows.append((open_run_key(run), encode_state(state)))
        return run


def _records() -> list[tuple[RecordKind, Payload, bytes]]:
    chance = os.urandom(8).hex()
    life: list[Payload] = [
        payloads.RunAccepted(
            project_id="shop",
            deployment_id="default",
            component="checkout",
            component_kind=2,
            input=b'{"order": "%s", "items": {"lamp": 2}}' % chance.encode(),
        ),
        payloads.RunStarted(attempt=1, lease_epoch=1, worker_id="worker-1"),
    ]
    life += [
        payloads.StepCompleted(
            position=number,
            name=f"step_{number}",
            input=b"[]",
            output=b'{"charged": true, "cents": %d, "reference": "%s"}'
            % (number * 1_999, os.urandom(8).hex().encode()),
            started_ms=BEGIN_US // 1_000,
            finished_ms=BEGIN_US // 1_000 + 3,
            attempt=1,
            lease_epoch=1,
        )
        for number in (1, 2, 3)
    ]
    life.append(payloads.RunCompleted(output=b'{"parcel": "%s"}' % chance.encode(), lease_epoch=1))
    assert len(life) == RECORDS_PER_RUN
    return [(wire.kind_of(payload), payload, wire.encode(payload)) for payload in life]


def _write(journal: TenantJournal, records: list[Any], rows: list[Any]) -> None:
    batch = SimpleNamespace(
        keys=[key for key, _ in records],
        values=[value for _, value in records],
        rows=rows,
        ranges=[],
    )
    store = journal.store
    store.write(store.prepare(cast("Any", batch)), sync=False)
