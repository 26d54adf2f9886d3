"""The pending queue: offsets, bounds, batches, and that a refused call has changed nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from engine.base import limits
from engine.base.errors import AppendConflict, JournalBusy, LimitExceeded, SegmentSealed
from engine.model.records import RecordKind
from tests.ext.implementations import PROGRAMMER_ERRORS, Implementation

RUN = bytes(range(16))
OTHER_RUN = bytes(range(16, 32))
KIND = RecordKind.STEP_COMPLETED
NOW_US = 1_767_225_600_000_000
RECORD_BYTES = 24 + 16  # key and header; the payload comes on top

RecordParts = tuple[int, int, int, bytes]


def records(*payloads: bytes) -> list[RecordParts]:
    return [(KIND, 0, NOW_US, payload) for payload in payloads]


def state(queue: Any, *heads: Any) -> object:
    """Everything about a queue and its heads that a caller can see; takes nothing out."""
    batch = queue.filling
    return (
        queue.record_count,
        queue.byte_count,
        queue.has_room,
        queue.has_full,
        queue.is_empty,
        list(batch.keys),
        list(batch.values),
        list(batch.rows),
        list(batch.ranges),
        list(batch.effects),
        list(batch.waiters),
        [(head.next_offset, head.durable_offset, head.first_offset) for head in heads],
    )


def taken(queue: Any) -> Iterator[Any]:
    while (batch := queue.take()) is not None:
        yield batch


class Bench:
    """A queue with small bounds and two heads."""

    def __init__(self, implementation: Implementation, **bounds: int) -> None:
        self.implementation = implementation
        self.queue = implementation.append.PendingQueue(**bounds)
        self.head = implementation.append.SegmentHead(RUN)
        self.other = implementation.append.SegmentHead(OTHER_RUN)

    def append(self, payload: bytes = b"", **named: Any) -> int:
        expected = named.pop("expected", None)
        offset: int = self.queue.append(self.head, expected, KIND, payload, NOW_US, **named)
        return offset

    def transition(self, *payloads: bytes, rows: Any = (), effects: Any = (), **named: Any) -> int:
        expected = named.pop("expected", None)
        first: int = self.queue.append_transition(
            self.head, expected, records(*payloads), list(rows), list(effects), **named
        )
        return first

    def refuses(self, error_type: type[Exception], call: Callable[[], object]) -> Any:
        """The call raises, and nothing is other than before."""
        before = state(self.queue, self.head, self.other)
        with pytest.raises(error_type) as caught:
            call()
        assert state(self.queue, self.head, self.other) == before
        return caught.value


@pytest.fixture
def bench(implementation: Implementation) -> Bench:
    return Bench(implementation)


# ---- offsets ----


def test_offsets_are_given_out_per_run_in_the_order_of_the_calls(bench: Bench) -> None:
    queue = bench.queue
    assert [queue.append(bench.head, None, KIND, b"a", NOW_US) for _ in range(3)] == [0, 1, 2]
    assert queue.append(bench.other, None, KIND, b"b", NOW_US) == 0
    assert bench.transition(b"c", b"d") == 3
    assert bench.head.next_offset == 5
    assert bench.head.durable_offset == 0
    (batch,) = taken(queue)
    split = bench.implementation.offsets.split_key
    assert [split(key) for key in batch.keys] == [
        *[(RUN, offset) for offset in range(3)],
        (OTHER_RUN, 0),
        (RUN, 3),
        (RUN, 4),
    ]


def test_a_record_is_written_with_its_header(bench: Bench) -> None:
    bench.append(b"payload", flags=9)
    batch = bench.queue.take()
    decode = bench.implementation.offsets.decode_record
    assert decode(batch.values[0]) == (KIND, 9, 0, NOW_US, b"payload")


def test_a_transitions_records_carry_their_own_offsets(bench: Bench) -> None:
    bench.append()
    bench.transition(b"a", b"b")
    decode = bench.implementation.offsets.decode_record
    assert [decode(value)[2] for value in bench.queue.take().values] == [0, 1, 2]


def test_a_head_goes_on_where_the_disk_ends(implementation: Implementation) -> None:
    head = implementation.append.SegmentHead(RUN, 3, 2**32 - 3)
    assert (head.first_offset, head.durable_offset) == (3, 2**32 - 3)
    queue = implementation.append.PendingQueue()
    assert queue.append(head, 2**32 - 3, KIND, b"", NOW_US) == 2**32 - 3


@pytest.mark.parametrize("run", [b"", RUN[1:], RUN + b"x"])
def test_a_head_of_no_run_is_a_programmer_error(implementation: Implementation, run: bytes) -> None:
    with pytest.raises(AssertionError):
        implementation.append.SegmentHead(run)


def test_a_head_that_begins_behind_its_end_is_a_programmer_error(
    implementation: Implementation,
) -> None:
    with pytest.raises(AssertionError):
        implementation.append.SegmentHead(RUN, 2, 1)


# ---- who appends to what ----


@pytest.mark.parametrize("expected", [0, 1, 3, 2**40])
def test_another_next_offset_than_expected_is_a_conflict(bench: Bench, expected: int) -> None:
    bench.transition(b"a", b"b")
    error = bench.refuses(AppendConflict, lambda: bench.append(expected=expected))
    assert error.details == {"expected": expected, "next_offset": 2}
    bench.refuses(AppendConflict, lambda: bench.transition(b"a", expected=expected))


def test_the_expected_next_offset_is_no_conflict(bench: Bench) -> None:
    assert bench.append(expected=0) == 0
    assert bench.transition(b"a", b"b", expected=1) == 1
    assert bench.append(expected=3) == 3


def test_nothing_follows_in_a_sealed_segment(bench: Bench) -> None:
    bench.append()
    bench.head.sealed = True
    error = bench.refuses(SegmentSealed, bench.append)
    assert error.details == {"next_offset": 1}
    bench.refuses(SegmentSealed, lambda: bench.transition(b"a", expected=0))
    assert bench.queue.append(bench.other, None, KIND, b"", NOW_US) == 0


# ---- bounds ----


def test_the_payload_bound(implementation: Implementation) -> None:
    bench = Bench(implementation, payload_bytes_max=100)
    bench.append(b"x" * 100)
    error = bench.refuses(LimitExceeded, lambda: bench.append(b"x" * 101))
    assert error.details == {"length": 101}
    bench.refuses(LimitExceeded, lambda: bench.transition(b"fine", b"x" * 101, b"fine"))
    assert bench.transition(b"x" * 100, b"y" * 100) == 1


def test_the_bound_of_a_runs_records(implementation: Implementation) -> None:
    bench = Bench(implementation, records_per_run_max=5)
    bench.transition(b"a", b"b", b"c")
    bench.refuses(LimitExceeded, lambda: bench.transition(b"d", b"e", b"f"))
    bench.transition(b"d", b"e")
    error = bench.refuses(LimitExceeded, bench.append)
    assert error.details == {"next_offset": 5}


def test_a_run_does_not_outgrow_the_offset_in_its_headers(implementation: Implementation) -> None:
    queue = implementation.append.PendingQueue()
    head = implementation.append.SegmentHead(RUN, 0, limits.records_per_run_max - 1)
    queue.append(head, None, KIND, b"", NOW_US)
    with pytest.raises(LimitExceeded, match="run"):
        queue.append(head, None, KIND, b"", NOW_US)


def test_the_bound_of_pending_records(implementation: Implementation) -> None:
    bench = Bench(implementation, pending_records_max=4)
    bench.transition(b"a", b"b", b"c")
    assert bench.queue.has_room
    error = bench.refuses(JournalBusy, lambda: bench.transition(b"d", b"e"))
    assert error.details == {"pending_records": 3, "pending_bytes": 3 * RECORD_BYTES + 3}
    bench.append()
    assert not bench.queue.has_room
    bench.refuses(JournalBusy, bench.append)
    bench.queue.take()
    assert bench.queue.has_room
    assert bench.append() == 4


def test_the_bound_of_pending_bytes(implementation: Implementation) -> None:
    bench = Bench(implementation, pending_bytes_max=2 * RECORD_BYTES)
    bench.append()
    assert bench.queue.has_room
    bench.append()
    assert not bench.queue.has_room  # at the bound: who can wait, waits
    bench.append()  # and who cannot is let in until it is passed
    bench.refuses(JournalBusy, bench.append)


def test_room_is_for_a_number_of_records(implementation: Implementation) -> None:
    bench = Bench(implementation, pending_records_max=4)
    assert bench.queue.has_room_for(5)  # waiting would not make it emptier
    bench.append()
    assert bench.queue.has_room_for(3)
    assert not bench.queue.has_room_for(4)
    bench.transition(b"", b"", b"")
    assert bench.queue.has_room_for(0)
    assert not bench.queue.has_room_for(1)
    bench.queue.take()
    assert bench.queue.has_room_for(4)


def test_the_bounds_of_a_transition(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "records_per_transition_max", 3)
    monkeypatch.setattr(limits, "rows_per_transition_max", 2)
    rows = [(b"a", b"1"), (b"b", None)]
    assert bench.transition(b"", b"", b"", rows=rows) == 0
    bench.refuses(LimitExceeded, lambda: bench.transition(b"", b"", b"", b""))
    error = bench.refuses(LimitExceeded, lambda: bench.transition(b"", rows=[*rows, (b"c", b"3")]))
    assert error.details == {"records": 1, "rows": 3}


@pytest.mark.parametrize(
    ("row", "is_within"),
    [
        pytest.param((b"", b""), False, id="no key"),
        pytest.param((b"k", b""), True, id="shortest key"),
        pytest.param((b"k" * limits.key_length_max, None), True, id="longest key"),
        pytest.param((b"k" * (limits.key_length_max + 1), None), False, id="longer key"),
        pytest.param((b"k", bytes(limits.row_bytes_max)), True, id="largest row"),
        pytest.param((b"k", bytes(limits.row_bytes_max + 1)), False, id="larger row"),
    ],
)
def test_the_bounds_of_a_row(
    bench: Bench, row: tuple[bytes, bytes | None], is_within: bool
) -> None:
    fine = (b"fine", b"")
    if is_within:
        bench.transition(b"", rows=[row])
        bench.queue.change_rows([row], [])
    else:
        bench.refuses(LimitExceeded, lambda: bench.transition(b"", rows=[fine, row]))
        bench.refuses(LimitExceeded, lambda: bench.queue.change_rows([fine, row], []))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param((0, 0, NOW_US, b""), id="kind 0"),
        pytest.param((20, 0, NOW_US, b""), id="kind 20"),
        pytest.param((KIND, 256, NOW_US, b""), id="flags 256"),
        pytest.param((KIND, 0, -1, b""), id="time -1"),
        pytest.param((KIND, 0, NOW_US, None), id="no payload"),
        pytest.param((KIND, 0, NOW_US, "text"), id="text"),
    ],
)
def test_a_record_nobody_can_write_is_a_programmer_error(bench: Bench, bad: Any) -> None:
    whole = records(b"fine")
    for transition in ([bad], [*whole, bad], [bad, *whole]):
        with pytest.raises(PROGRAMMER_ERRORS):
            bench.queue.append_transition(bench.head, None, transition, [], [])
    kind, flags, timestamp_us, payload = bad
    with pytest.raises(PROGRAMMER_ERRORS):
        bench.queue.append(bench.head, None, kind, payload, timestamp_us, flags=flags)
    assert bench.head.next_offset == 0
    assert bench.queue.is_empty


# ---- batches ----


def test_batches_are_cut_at_their_number_of_records(implementation: Implementation) -> None:
    bench = Bench(implementation, batch_records_max=4)
    for _ in range(10):
        bench.append()
    assert bench.queue.has_full
    assert [len(batch) for batch in taken(bench.queue)] == [4, 4, 2]


def test_a_batch_takes_nothing_more_once_it_is_over_its_bytes(
    implementation: Implementation,
) -> None:
    bench = Bench(implementation, batch_bytes_max=2 * RECORD_BYTES)
    for _ in range(4):
        bench.append()
    assert [len(batch) for batch in taken(bench.queue)] == [3, 1]


def test_a_batch_takes_nothing_more_once_it_has_its_number_of_waiters(
    implementation: Implementation,
) -> None:
    bench = Bench(implementation, batch_waiters_max=2)
    for number in range(5):
        bench.append(waiter=number)
        bench.append()
    batches = list(taken(bench.queue))
    assert [batch.waiters for batch in batches] == [[0, 1], [2, 3], [4]]
    assert sum(map(len, batches)) == 10


def test_a_transition_is_never_cut(implementation: Implementation) -> None:
    bench = Bench(implementation, batch_records_max=4, batch_bytes_max=10 * RECORD_BYTES)
    bench.transition(b"", b"", b"")
    bench.transition(b"", b"")  # does not fit behind it
    bench.transition(*[b""] * 9)  # larger than a batch may be: one to itself
    bench.append()
    assert [len(batch) for batch in taken(bench.queue)] == [3, 2, 9, 1]


def test_rows_alone_fill_a_batch_as_well(implementation: Implementation) -> None:
    bench = Bench(implementation, batch_bytes_max=100)
    for number in range(4):
        bench.queue.change_rows([(bytes([number]), bytes(69))], [])
    bench.append()
    assert [len(batch.rows) for batch in taken(bench.queue)] == [2, 2, 0]


def test_a_transition_goes_into_the_batch_that_was_said(implementation: Implementation) -> None:
    bench = Bench(implementation, batch_records_max=3)
    before = bench.queue.filling
    bench.transition(b"", b"")
    assert bench.queue.batch_for(1) is before
    following = bench.queue.batch_for(2)
    assert following is not before
    bench.transition(b"", b"")
    assert [batch is following for batch in taken(bench.queue)] == [False, True]


def test_rows_of_a_transition_are_in_its_batch(implementation: Implementation) -> None:
    bench = Bench(implementation, batch_records_max=2)
    for number in range(3):
        bench.transition(b"", b"", rows=[(bytes([number]), b"row")], effects=[number])
    batches = list(taken(bench.queue))
    assert [batch.rows for batch in batches] == [[(bytes([n]), b"row")] for n in range(3)]
    assert [batch.effects for batch in batches] == [[0], [1], [2]]


def test_batches_are_taken_in_the_order_they_were_filled(implementation: Implementation) -> None:
    bench = Bench(implementation, batch_records_max=1)
    for number in range(5):
        bench.append(bytes([number]))
    assert [batch.values[0][-1] for batch in taken(bench.queue)] == [0, 1, 2, 3, 4]


def test_what_is_put_in_after_a_take_is_in_the_next_batch(bench: Bench) -> None:
    bench.append(b"first")
    first = bench.queue.take()
    bench.append(b"second")
    assert [value[16:] for value in first.values] == [b"first"]
    assert [value[16:] for value in bench.queue.take().values] == [b"second"]


def test_effects_and_waiters_keep_their_order(bench: Bench) -> None:
    bench.append(effect="a", waiter="w")
    bench.transition(b"", effects=["b", "c"], waiter="x")
    bench.append()
    bench.queue.change_rows([(b"k", b"v")], [], "y")
    bench.append(effect="d")
    batch = bench.queue.take()
    assert batch.effects == ["a", "b", "c", "d"]
    assert batch.waiters == ["w", "x", "y"]


def test_rows_and_ranges_without_a_record(bench: Bench) -> None:
    bench.queue.change_rows([(b"k", b"v"), (b"gone", None)], [(b"from", b"to")], "waiter")
    assert not bench.queue.is_empty
    batch = bench.queue.take()
    assert len(batch) == 0
    assert not batch.is_empty
    assert (batch.rows, batch.ranges) == ([(b"k", b"v"), (b"gone", None)], [(b"from", b"to")])
    assert batch.waiters == ["waiter"]


def test_a_transition_of_nothing_still_has_its_turn(bench: Bench) -> None:
    """Who waits for it would wait for ever if it were not a batch."""
    assert bench.transition(waiter="waiter") == 0
    assert bench.queue.take().waiters == ["waiter"]
    assert bench.transition(effects=["effect"]) == 0
    assert bench.queue.take().effects == ["effect"]
    bench.queue.change_rows([], [], "waiter")
    assert bench.queue.take().waiters == ["waiter"]


def test_an_empty_queue_has_nothing_to_take(bench: Bench) -> None:
    assert bench.queue.is_empty
    assert not bench.queue.has_full
    assert bench.queue.take() is None
    bench.append()
    assert bench.queue.take() is not None
    assert bench.queue.take() is None


# ---- accounting ----


def test_what_is_taken_is_not_counted(implementation: Implementation) -> None:
    bench = Bench(implementation, batch_records_max=3)
    bench.append(b"12345")
    assert (bench.queue.record_count, bench.queue.byte_count) == (1, RECORD_BYTES + 5)
    bench.transition(b"12", b"", rows=[(b"key", b"value"), (b"gone", None)])
    assert bench.queue.record_count == 3
    assert bench.queue.byte_count == 3 * RECORD_BYTES + 7 + 12
    bench.queue.change_rows([(b"key", b"value")], [(b"a", b"b")])
    bench.append()
    counted = sum(batch.byte_count for batch in taken(bench.queue))
    assert counted == 4 * RECORD_BYTES + 7 + 12 + 8
    assert (bench.queue.record_count, bench.queue.byte_count) == (0, 0)
    assert bench.queue.is_empty


def test_a_durable_batch_moves_its_heads(bench: Bench) -> None:
    bench.transition(b"", b"")
    bench.queue.append(bench.other, None, KIND, b"", NOW_US)
    first = bench.queue.take()
    bench.append()
    assert first.mark_durable() == []
    assert (bench.head.durable_offset, bench.head.next_offset) == (2, 3)
    assert (bench.other.durable_offset, bench.other.next_offset) == (1, 1)
    bench.queue.take().mark_durable()
    assert bench.head.durable_offset == 3


def test_a_durable_batch_names_the_heads_that_are_tailed(bench: Bench) -> None:
    bench.append()
    bench.queue.append(bench.other, None, KIND, b"", NOW_US)
    bench.other.tail_lot = object()
    assert bench.queue.take().mark_durable() == [bench.other]
