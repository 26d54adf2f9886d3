"""The same random inputs to the compiled code and to its twin: the same outcomes, the same state.

Hypothesis finds the inputs; the suites beside this one say what the outcome should be.
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.runs import RunSummary
from tests.ext.implementations import COMPILED, TWIN, Implementation, Refused, outcome_of, plain
from tests.ext.mutations import mutated_record
from tests.histories import history
from tests.twins.offsets import encode_record

# ---- the queue ----

RUNS = [bytes([number]) * 16 for number in range(3)]
BOUNDS = {
    "batch_records_max": 4,
    "batch_bytes_max": 300,
    "batch_waiters_max": 3,
    "pending_records_max": 12,
    "pending_bytes_max": 900,
    "payload_bytes_max": 60,
    "records_per_run_max": 20,
}

HEADS = st.integers(0, len(RUNS) - 1)
# An offset relative to the next one, since an absolute one would hardly ever be right.
EXPECTED = st.none() | st.integers(-1, 1)
PAYLOADS = st.integers(0, 61).map(bytes)
RECORDS = st.tuples(st.integers(0, 20), st.integers(-1, 256), st.integers(-1, 9), PAYLOADS)
FINE_RECORDS = st.tuples(st.integers(1, 19), st.just(0), st.just(7), PAYLOADS)
ROWS = st.lists(
    st.tuples(st.binary(max_size=3), st.none() | st.integers(0, 90).map(bytes)), max_size=3
)
TOKENS = st.none() | st.integers(1, 9)
TRANSITIONS = st.lists(st.one_of(FINE_RECORDS, FINE_RECORDS, FINE_RECORDS, RECORDS), max_size=4)
OPERATIONS = st.one_of(
    st.tuples(st.just("append"), HEADS, EXPECTED, RECORDS, TOKENS, TOKENS),
    st.tuples(st.just("append"), HEADS, EXPECTED, FINE_RECORDS, TOKENS, TOKENS),
    st.tuples(st.just("transition"), HEADS, EXPECTED, TRANSITIONS, ROWS, TOKENS),
    st.tuples(st.just("change_rows"), ROWS, st.lists(st.just((b"a", b"b")), max_size=1), TOKENS),
    st.tuples(st.just("batch_for"), st.integers(0, 9)),
    st.tuples(st.just("seal"), HEADS, st.booleans()),
    st.tuples(st.just("tail"), HEADS),
    st.tuples(st.just("take")),
)


class Replica:
    """One implementation on which a program runs."""

    def __init__(self, implementation: Implementation) -> None:
        self._code = implementation.append
        self.queue = self._code.PendingQueue(**BOUNDS)
        self.heads = [self._code.SegmentHead(run) for run in RUNS]

    def step(self, operation: tuple[Any, ...]) -> object:
        name, *arguments = operation
        return outcome_of(lambda: getattr(self, name)(*arguments), with_details=True)

    def _expected(self, head: Any, relative: int | None) -> int | None:
        return None if relative is None else max(0, head.next_offset + relative)

    def append(self, at: int, expected: int | None, record: Any, effect: Any, waiter: Any) -> int:
        head = self.heads[at]
        kind, flags, timestamp_us, payload = record
        offset: int = self.queue.append(
            head, self._expected(head, expected), kind, payload, timestamp_us, effect, waiter, flags
        )
        return offset

    def transition(
        self, at: int, expected: int | None, records: Any, rows: Any, waiter: Any
    ) -> int:
        head = self.heads[at]
        first: int = self.queue.append_transition(
            head, self._expected(head, expected), records, rows, [len(records)], waiter
        )
        return first

    def change_rows(self, rows: Any, ranges: Any, waiter: Any) -> None:
        self.queue.change_rows(rows, ranges, waiter)

    def batch_for(self, records: int) -> bool:
        return self.queue.batch_for(records) is self.queue.filling

    def seal(self, at: int, sealed: bool) -> None:
        self.heads[at].sealed = sealed

    def tail(self, at: int) -> None:
        self.heads[at].tail_lot = "somebody"

    def take(self) -> object:
        batch = self.queue.take()
        if batch is None:
            return None
        tailed = [head.run for head in batch.mark_durable()]
        return self._seen(batch), tailed

    def _seen(self, batch: Any) -> object:
        lists = (batch.keys, batch.values, batch.rows, batch.ranges, batch.effects, batch.waiters)
        return *map(list, lists), batch.byte_count, len(batch), batch.is_empty

    def state(self) -> object:
        queue = self.queue
        return (
            self._seen(queue.filling),
            (queue.record_count, queue.byte_count),
            (queue.is_empty, queue.has_full, queue.has_room),
            [queue.has_room_for(records) for records in range(15)],
            [(head.next_offset, head.durable_offset, head.sealed) for head in self.heads],
        )


@settings(max_examples=300)
@given(program=st.lists(OPERATIONS, max_size=30))
def test_the_queues_agree(program: list[tuple[Any, ...]]) -> None:
    compiled, twin = Replica(COMPILED), Replica(TWIN)
    for operation in program:
        before = compiled.state()
        outcome = compiled.step(operation)
        assert outcome == twin.step(operation)
        assert compiled.state() == twin.state()
        if isinstance(outcome, Refused):
            assert compiled.state() == before
    while not compiled.queue.is_empty:
        assert compiled.take() == twin.take()
    assert (compiled.queue.record_count, compiled.queue.byte_count) == (0, 0)
    assert all(head.durable_offset == head.next_offset for head in compiled.heads)


# ---- the fold ----


class Fold:
    def __init__(self, implementation: Implementation, summary: RunSummary) -> None:
        self._fold = implementation.replay.RunFold(summary)

    def feed(self, value: bytes) -> object:
        return outcome_of(lambda: self._fold.feed(value))

    def state(self) -> bytes:
        return plain(self._fold.summary())


def values_of(seed: int) -> list[bytes]:
    return [
        encode_record(new.kind, new.flags, offset, new.timestamp_us, new.payload)
        for offset, new in enumerate(history(seed))
    ]


def assert_the_folds_agree(summary: RunSummary, values: list[bytes]) -> None:
    compiled, twin = Fold(COMPILED, summary), Fold(TWIN, summary)
    for value in values:
        before = compiled.state()
        outcome = compiled.feed(value)
        assert outcome == twin.feed(value)
        assert compiled.state() == twin.state()
        if isinstance(outcome, Refused):
            assert compiled.state() == before


@given(seed=st.integers(0, 2**32))
def test_the_folds_agree_on_histories(seed: int) -> None:
    assert_the_folds_agree(RunSummary(), values_of(seed))


@settings(max_examples=200)
@given(seed=st.integers(0, 2**16), random=st.randoms(use_true_random=True))
def test_the_folds_agree_on_damaged_histories(seed: int, random: Any) -> None:
    values = values_of(seed)
    damaged = [
        part
        for value in values
        for part in ((mutated_record(random, value), value) if random.random() < 0.3 else (value,))
    ]
    assert_the_folds_agree(RunSummary(), damaged)


# Fields with the numbers the summary reads, in wire types that are right or wrong.
NUMBERS = st.sampled_from([1, 2, 3, 4, 5, 6, 10, 11, 12, 15, 16])
VARINTS = st.integers(0, 2**64 - 1) | st.integers(0, 3)


def _varint(value: int) -> bytes:
    digits = []
    while True:
        digits.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(digits)


def _nested(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda n, data: _varint(n << 3 | 2) + _varint(len(data)) + data, NUMBERS, inner
    )


LEAVES = st.one_of(
    st.builds(lambda n, value: _varint(n << 3) + _varint(value), NUMBERS, VARINTS),
    st.builds(
        lambda n, data: _varint(n << 3 | 1) + data, NUMBERS, st.binary(min_size=8, max_size=8)
    ),
    st.builds(
        lambda n, data: _varint(n << 3 | 5) + data, NUMBERS, st.binary(min_size=4, max_size=4)
    ),
    _nested(st.binary(max_size=12)),
    _nested(st.text(max_size=5).map(str.encode)),
)
FIELDS = st.one_of(LEAVES, LEAVES, _nested(st.lists(LEAVES, max_size=3).map(b"".join)))
PAYLOAD_BYTES = st.lists(FIELDS, max_size=6).map(b"".join) | st.binary(max_size=30)
SUMMARIES = st.builds(
    RunSummary,
    next_offset=st.sampled_from([0, 5, 2**32 - 2]),
    status=st.integers(0, 4),
    tool_calls=VARINTS,
    tokens_in=VARINTS,
    waits_open=st.integers(0, 2),
    cost_usd=st.floats(),
)


@settings(max_examples=400)
@given(
    summary=SUMMARIES,
    said=st.lists(st.tuples(st.integers(1, 19), PAYLOAD_BYTES), min_size=1, max_size=5),
)
def test_the_folds_agree_on_any_fields(summary: RunSummary, said: list[tuple[int, bytes]]) -> None:
    at = summary.next_offset
    twin = TWIN.replay.RunFold(summary)
    values = []
    for kind, payload in said:
        values.append(encode_record(kind, 0, twin.next_offset, 5, payload))
        outcome_of(lambda: twin.feed(values[-1]))
    assert twin.next_offset >= at
    assert_the_folds_agree(msgspec.structs.replace(summary), values)
