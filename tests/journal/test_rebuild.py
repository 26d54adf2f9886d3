"""REBUILD_EQUALS_STATE: folding a run's records gives the state that was stored beside them, after
every transition, after a restart, and by the compiled fold as by its twin."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.base.ids import RunId
from engine.ext.replay import RunFold
from engine.journal.layout import run_key
from engine.journal.segment import Segment
from engine.journal.tenant import TenantJournal
from engine.model.records import NewRecord
from engine.model.runs import RunSummary
from engine.wire import journal as wire
from tests.histories import history, transitions
from tests.journal.harness import ACME, files_as_they_are, journal_at, run_number
from tests.twins.offsets import encode_record
from tests.twins.replay import RunFold as TwinFold

SEEDS = range(40)
LENGTH_MAX = 60


async def append_with_state(
    segment: Segment, state: RunSummary, records: list[NewRecord]
) -> RunSummary:
    """A transition as the runtime makes it: fold in memory, then records and state in one batch."""
    fold = RunFold(state)
    for offset, new in enumerate(records, segment.next_offset):
        fold.feed(encode_record(new.kind, new.flags, offset, new.timestamp_us, new.payload))
    after = fold.summary()
    row = (run_key(segment.run_id), msgspec.msgpack.encode(after))
    await segment.append_many(records, rows=[row], expected=state.next_offset)
    return after


def stored_state(tenant: TenantJournal, run: RunId) -> RunSummary:
    row = tenant.row(run_key(run))
    return RunSummary() if row is None else msgspec.msgpack.decode(row, type=RunSummary)


def assert_rebuilt(tenant: TenantJournal, run: RunId) -> RunSummary:
    segment = tenant.open_segment(run)
    stored = stored_state(tenant, run)
    twin = TwinFold()
    twin.feed_all(segment.read_values())
    assert segment.fold() == stored == twin.summary()
    assert stored.next_offset == segment.next_offset
    return stored


async def test_rebuild_equals_state(tmp_path: Path) -> None:
    runs = {run_number(seed): seed for seed in SEEDS}
    async with journal_at(tmp_path) as journal, journal.use(ACME) as tenant:
        for run, seed in runs.items():
            segment, state = tenant.new_segment(run), RunSummary()
            for records in transitions(seed, LENGTH_MAX):
                state = await append_with_state(segment, state, records)
                assert assert_rebuilt(tenant, run) == state
    async with journal_at(tmp_path) as journal, journal.use(ACME, create=False) as tenant:
        assert list(tenant.runs()) == list(runs)
        for run, seed in runs.items():
            state = assert_rebuilt(tenant, run)
            assert state.next_offset == len(history(seed, LENGTH_MAX))


@pytest.mark.parametrize("seed", [3, 11])
async def test_rebuild_equals_state_after_a_kill_at_every_transition(
    tmp_path: Path, seed: int
) -> None:
    run = run_number(seed)
    async with journal_at(tmp_path / "data") as journal, journal.use(ACME) as tenant:
        segment, state = tenant.new_segment(run), RunSummary()
        for number, records in enumerate(transitions(seed)):
            state = await append_with_state(segment, state, records)
            copy = files_as_they_are(tmp_path / "data", tmp_path / f"copy-{number}")
            async with journal_at(copy) as copied, copied.use(ACME, create=False) as found:
                assert assert_rebuilt(found, run) == state


async def test_every_prefix_folds_to_the_state_it_had(tmp_path: Path) -> None:
    """One record to a transition, so that there is a state for each prefix."""
    run = run_number(1)
    async with journal_at(tmp_path) as journal, journal.use(ACME) as tenant:
        segment, states = tenant.new_segment(run), [RunSummary()]
        for new in history(1):
            states.append(await append_with_state(segment, states[-1], [new]))
        values = list(segment.read_values())
        for length, state in enumerate(states):
            for fold in (RunFold(), TwinFold()):
                fold.feed_all(values[:length])
                assert fold.summary() == state


async def test_what_the_records_say_is_what_was_appended(tmp_path: Path) -> None:
    """The payloads come back as the values that went in, kind by kind."""
    async with journal_at(tmp_path) as journal, journal.use(ACME) as tenant:
        for seed in SEEDS[:10]:
            segment = tenant.new_segment(run_number(seed))
            records = history(seed)
            await segment.append_many(records)
            for new, found in zip(records, segment.read(), strict=True):
                assert (found.kind, found.timestamp_us, found.flags) == (
                    new.kind,
                    new.timestamp_us,
                    new.flags,
                )
                assert wire.decode(found.kind, found.payload) == wire.decode(new.kind, new.payload)
