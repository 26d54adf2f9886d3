"""The fold of a run: what each kind of record does to the summary, and that a record which is not
the next one does nothing."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.base.errors import MalformedRecord
from engine.model import payloads
from engine.model.payloads import PAYLOAD_TYPES, Payload
from engine.model.records import STATUS_AFTER, RecordKind
from engine.model.runs import TERMINAL_STATUSES, ComponentKind, RunStatus, RunSummary
from engine.wire import journal
from tests.ext.implementations import Implementation, plain
from tests.histories import history
from tests.twins.offsets import encode_record
from tests.twins.protobuf import scan

T0 = 1_767_225_600_000_000
ERROR = payloads.Error(code="card_declined", message="Karte abgelehnt ✗")

every_kind = pytest.mark.parametrize("kind", RecordKind, ids=lambda kind: kind.name)


def record(offset: int, payload: Payload, at_us: int | None = None) -> bytes:
    at_us = T0 + offset if at_us is None else at_us
    return encode_record(journal.kind_of(payload), 0, offset, at_us, journal.encode(payload))


def raw_record(offset: int, kind: RecordKind, payload: bytes) -> bytes:
    return encode_record(kind, 0, offset, T0 + offset, payload)


def folded(implementation: Implementation, *said: Payload) -> RunSummary:
    fold = implementation.replay.RunFold()
    for offset, payload in enumerate(said):
        assert fold.feed(record(offset, payload)) == 0
    summary: RunSummary = fold.summary()
    assert summary.next_offset == fold.next_offset == len(said)
    return summary


def difference(before: RunSummary, after: RunSummary) -> dict[str, Any]:
    """What changed, apart from what every record changes."""
    return {
        name: getattr(after, name)
        for name in RunSummary.__struct_fields__
        if getattr(after, name) != getattr(before, name)
        and name not in ("next_offset", "updated_us")
    }


ACCEPTED = payloads.RunAccepted(
    project_id="shop",
    deployment_id="blue-7",
    component="checkout",
    component_kind=ComponentKind.WORKFLOW,
    trace_id="4bf92f3577b34da6",
    correlation_id="order-17",
    parent_run_id=bytes(range(16)),
    prompt_version="v12",
)
STARTED = payloads.RunStarted(attempt=1, lease_epoch=7, worker_id="w1")
PARKING = payloads.WaitCreated(wait_id="w", kind=payloads.WaitKind.USER, parks=True)
USAGE = payloads.UsageReported(
    model="large-2", tokens_in=100, tokens_out=20, cost_usd=0.25, tool_calls=3
)


def test_a_run_begins_as_nothing(implementation: Implementation) -> None:
    assert implementation.replay.RunFold().summary() == RunSummary()


def test_what_was_accepted_is_kept(implementation: Implementation) -> None:
    assert folded(implementation, ACCEPTED) == RunSummary(
        next_offset=1,
        status=RunStatus.QUEUED,
        created_us=T0,
        updated_us=T0,
        project_id="shop",
        deployment_id="blue-7",
        component="checkout",
        component_kind=ComponentKind.WORKFLOW,
        trace_id="4bf92f3577b34da6",
        correlation_id="order-17",
        parent_run_id=bytes(range(16)),
        prompt_version="v12",
    )


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        (STARTED, {"status": 2, "attempt": 1, "lease_epoch": 7, "started_us": T0 + 1}),
        (payloads.StepCompleted(position=1, name="charge"), {"steps_completed": 1}),
        (payloads.StepCompleted(tool=True), {"steps_completed": 1, "tool_calls": 1}),
        (payloads.StepFailed(error=ERROR), {"steps_failed": 1}),
        (payloads.StepFailed(error=ERROR, tool=True), {"steps_failed": 1, "tool_calls": 1}),
        (payloads.WaitCreated(wait_id="w"), {"waits_open": 1}),
        (PARKING, {"waits_open": 1, "status": RunStatus.WAITING}),
        (payloads.WaitResolved(wait_id="w"), {}),
        (payloads.SignalReceived(signal_id="s"), {"signals_received": 1}),
        (payloads.ChildStarted(position=1), {"children_started": 1}),
        (payloads.ChildFinished(position=1, error=ERROR), {"children_finished": 1}),
        (payloads.StateChanged(name="cart", value=b"{}"), {"state_changes": 1}),
        (
            USAGE,
            {
                "model": "large-2",
                "tokens_in": 100,
                "tokens_out": 20,
                "cost_usd": 0.25,
                "tool_calls": 3,
            },
        ),
        (
            payloads.RunRetrying(attempt=2, error=ERROR),
            {
                "status": RunStatus.RETRYING,
                "error_code": "card_declined",
                "error_message": "Karte abgelehnt ✗",
            },
        ),
        (payloads.RunYielded(reason="fair"), {}),  # was QUEUED already
        (payloads.CancelRequested(reason="user"), {"cancel_requested": True}),
        (
            payloads.RunCompleted(output=b"42"),
            {"status": RunStatus.COMPLETED, "completed_us": T0 + 1},
        ),
        (
            payloads.RunFailed(error=ERROR),
            {
                "status": RunStatus.FAILED,
                "completed_us": T0 + 1,
                "error_code": "card_declined",
                "error_message": "Karte abgelehnt ✗",
            },
        ),
        (
            payloads.RunCancelled(reason="user"),
            {"status": RunStatus.CANCELLED, "completed_us": T0 + 1},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Payload) else "",
)
def test_each_record_changes_what_it_says(
    implementation: Implementation, said: Payload, changes: dict[str, Any]
) -> None:
    before = folded(implementation, ACCEPTED)
    after = folded(implementation, ACCEPTED, said)
    assert difference(before, after) == changes
    assert after.updated_us == T0 + 1


@every_kind
def test_the_status_after_each_kind_is_the_models(
    implementation: Implementation, kind: RecordKind
) -> None:
    after = folded(implementation, ACCEPTED, STARTED, PAYLOAD_TYPES[kind]())
    assert after.status == STATUS_AFTER.get(kind, RunStatus.RUNNING)


def test_the_first_start_is_when_the_run_started(implementation: Implementation) -> None:
    second = payloads.RunStarted(attempt=2, lease_epoch=9)
    after = folded(implementation, ACCEPTED, STARTED, payloads.RunRetrying(), second)
    assert (after.started_us, after.attempt, after.lease_epoch) == (T0 + 1, 2, 9)


def test_a_resolved_wait_queues_only_a_waiting_run(implementation: Implementation) -> None:
    resolved = payloads.WaitResolved(wait_id="w")
    running = folded(implementation, ACCEPTED, STARTED, payloads.WaitCreated(), resolved)
    assert (running.status, running.waits_open) == (RunStatus.RUNNING, 0)
    parked = folded(implementation, ACCEPTED, STARTED, PARKING, PARKING, resolved)
    assert (parked.status, parked.waits_open) == (RunStatus.QUEUED, 1)


def test_a_run_that_completes_has_no_error(implementation: Implementation) -> None:
    after = folded(
        implementation,
        ACCEPTED,
        payloads.RunRetrying(error=ERROR),
        STARTED,
        payloads.RunCompleted(),
    )
    assert (after.error_code, after.error_message) == ("", "")


def test_usage_adds_up_and_keeps_the_last_model(implementation: Implementation) -> None:
    other = payloads.UsageReported(model="small-1", tokens_in=1, cost_usd=0.5)
    unnamed = payloads.UsageReported(tokens_out=5)
    after = folded(implementation, ACCEPTED, USAGE, other, unnamed)
    assert (after.model, after.tokens_in, after.tokens_out) == ("small-1", 101, 25)
    assert (after.cost_usd, after.tool_calls) == (0.75, 3)


def test_a_counter_stays_at_its_greatest_value(implementation: Implementation) -> None:
    most = payloads.UsageReported(tokens_in=2**64 - 1, tokens_out=2**63, tool_calls=2**32 - 1)
    after = folded(implementation, ACCEPTED, most, most, payloads.StepCompleted(tool=True))
    assert after.tokens_in == after.tokens_out == 2**64 - 1
    assert after.tool_calls == 2 * (2**32 - 1) + 1
    full = implementation.replay.RunFold(RunSummary(tool_calls=2**64 - 1))
    full.feed(record(0, payloads.StepFailed(tool=True)))
    assert full.summary().tool_calls == 2**64 - 1


def test_fields_of_a_newer_version_are_passed_over(implementation: Implementation) -> None:
    newer = b"\xa2\x1f\x03new" + b"\xa9\x1f" + bytes(8) + b"\xad\x1f" + bytes(4) + b"\xb0\x1f\x07"
    fold = implementation.replay.RunFold()
    fold.feed(raw_record(0, RecordKind.RUN_ACCEPTED, newer + journal.encode(ACCEPTED) + newer))
    assert fold.summary() == folded(implementation, ACCEPTED)


def test_of_a_field_that_comes_twice_the_last_one_counts(implementation: Implementation) -> None:
    fold = implementation.replay.RunFold()
    earlier = journal.encode(payloads.RunAccepted(project_id="old", correlation_id="kept"))
    later = journal.encode(payloads.RunAccepted(project_id="new"))
    fold.feed(raw_record(0, RecordKind.RUN_ACCEPTED, earlier + later))
    assert (fold.summary().project_id, fold.summary().correlation_id) == ("new", "kept")


def test_a_number_wider_than_its_field_is_cut_to_it(implementation: Implementation) -> None:
    """As protobuf has it for 32 bits; of an enum's number the sign is cut as well."""
    widest = b"\xff" * 9 + b"\x01"
    fold = implementation.replay.RunFold()
    fold.feed(raw_record(0, RecordKind.RUN_ACCEPTED, b"\x20" + widest))
    fold.feed(raw_record(1, RecordKind.RUN_STARTED, b"\x08" + widest + b"\x10" + widest))
    summary = fold.summary()
    assert summary.component_kind == 2**31 - 1
    assert (summary.attempt, summary.lease_epoch) == (2**32 - 1, 2**64 - 1)


def test_an_error_that_comes_twice_is_merged(implementation: Implementation) -> None:
    fold = implementation.replay.RunFold()
    code = journal.encode(payloads.RunFailed(error=payloads.Error(code="c")))
    message = journal.encode(payloads.RunFailed(error=payloads.Error(message="m")))
    fold.feed(raw_record(0, RecordKind.RUN_FAILED, code + message))
    assert (fold.summary().error_code, fold.summary().error_message) == ("c", "m")


# ---- what is not the next record ----


class Unchanged:
    """Feeds a fold what it must refuse, and checks that it is as it was."""

    def __init__(self, implementation: Implementation, *said: Payload) -> None:
        self.fold = implementation.replay.RunFold()
        self.fold.feed_all(record(offset, payload) for offset, payload in enumerate(said))
        self.before = plain(self.fold.summary())

    def refuses(self, value: bytes, says: str | None = None) -> None:
        with pytest.raises(MalformedRecord, match=says):
            self.fold.feed(value)
        assert plain(self.fold.summary()) == self.before


# A payload of each kind with its fields in use, so that a cut goes through every sort of field.
FULL = {
    RecordKind.RUN_ACCEPTED: ACCEPTED,
    RecordKind.RUN_STARTED: STARTED,
    RecordKind.USAGE_REPORTED: USAGE,
    RecordKind.WAIT_CREATED: PARKING,
    RecordKind.RUN_RETRYING: payloads.RunRetrying(attempt=300, error=ERROR, retry_at_ms=9),
    RecordKind.RUN_FAILED: payloads.RunFailed(error=ERROR, lease_epoch=1 << 40),
}


@every_kind
def test_a_record_cut_anywhere_changes_nothing_or_is_a_shorter_record(
    implementation: Implementation, kind: RecordKind
) -> None:
    """Between two fields a cut cannot be seen; everywhere else it must be."""
    payload = FULL.get(kind)
    whole = journal.encode(payload) if payload else _one_of_each_wire_type()
    boundaries = _field_boundaries(whole)
    value = raw_record(1, kind, whole)
    for length in range(len(value)):
        unchanged = Unchanged(implementation, ACCEPTED)
        if length - 16 in boundaries:
            unchanged.fold.feed(value[:length])
        else:
            unchanged.refuses(value[:length])


def _one_of_each_wire_type() -> bytes:
    return b"\x08\x96\x01" + b"\x1a\x03abc" + b"\x21" + bytes(8) + b"\x2d" + bytes(4)


def _field_boundaries(payload: bytes) -> set[int]:
    boundaries = {0}
    for length in range(1, len(payload) + 1):
        try:
            list(scan(payload[:length]))
        except ValueError:
            continue
        boundaries.add(length)
    return boundaries


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        pytest.param(RecordKind.RUN_ACCEPTED, b"\x0a\x01\xff", id="project is not UTF-8"),
        pytest.param(RecordKind.RUN_ACCEPTED, b"\x52\x03\xed\xa0\x80", id="half a surrogate"),
        pytest.param(
            RecordKind.USAGE_REPORTED, b"\x18\x05\x12\x01\xff", id="model is not UTF-8, after usage"
        ),
        pytest.param(RecordKind.RUN_FAILED, b"\x0a\x03\x0a\x01\xff", id="code is not UTF-8"),
        pytest.param(RecordKind.RUN_FAILED, b"\x0a\x02\x0a\x09", id="error is cut short"),
        pytest.param(RecordKind.RUN_RETRYING, b"\x12\x01\x07", id="error is not protobuf"),
        pytest.param(RecordKind.RUN_STARTED, b"\x08\x01\x00\x01", id="field number 0"),
        pytest.param(RecordKind.STEP_COMPLETED, b"\x50\x01\x0b", id="a group, after the tool flag"),
        pytest.param(RecordKind.STEP_COMPLETED, b"\x08" + b"\xff" * 9 + b"\x02", id="65 bits"),
        pytest.param(RecordKind.STEP_COMPLETED, b"\x08" + b"\x80" * 10 + b"\x00", id="11 bytes"),
        pytest.param(RecordKind.STEP_COMPLETED, b"\x88\x80\x80\x80\x10\x01", id="a tag of 33 bits"),
        pytest.param(
            RecordKind.STEP_COMPLETED, b"\x88\x80\x80\x80\x80\x00\x01", id="a tag of 6 bytes"
        ),
        pytest.param(
            RecordKind.STEP_COMPLETED, b"\x2a" + b"\xff" * 9 + b"\x01", id="2^64-1 bytes announced"
        ),
    ],
)
def test_a_malformed_payload_changes_nothing(
    implementation: Implementation, kind: RecordKind, payload: bytes
) -> None:
    Unchanged(implementation, ACCEPTED, STARTED, USAGE).refuses(raw_record(3, kind, payload))


@pytest.mark.parametrize("offset", [0, 1, 3, 4, 2**32 - 1])
def test_a_gap_is_found(implementation: Implementation, offset: int) -> None:
    step = payloads.StepCompleted()
    Unchanged(implementation, ACCEPTED, STARTED).refuses(record(offset, step), says="gap")


def test_offsets_go_on_beyond_the_32_bits_of_the_header(implementation: Implementation) -> None:
    fold = implementation.replay.RunFold(RunSummary(next_offset=2**32 - 1))
    fold.feed(record(2**32 - 1, STARTED))
    fold.feed(record(2**32, payloads.StepCompleted()))
    assert fold.next_offset == 2**32 + 1


@pytest.mark.parametrize(
    "last",
    [payloads.RunCompleted(), payloads.RunFailed(), payloads.RunCancelled()],
    ids=lambda last: type(last).__name__,
)
@every_kind
def test_terminal_once(implementation: Implementation, last: Payload, kind: RecordKind) -> None:
    unchanged = Unchanged(implementation, ACCEPTED, STARTED, last)
    unchanged.refuses(record(3, PAYLOAD_TYPES[kind]()), says="terminal")


@pytest.mark.parametrize(("at", "byte"), [(0, 2), (1, 0), (1, 20), (3, 1), (8, 0x80)])
def test_a_header_nobody_writes_changes_nothing(
    implementation: Implementation, at: int, byte: int
) -> None:
    value = bytearray(record(1, STARTED))
    value[at] = byte
    Unchanged(implementation, ACCEPTED).refuses(bytes(value))


def test_feeding_stops_at_the_record_that_is_malformed(implementation: Implementation) -> None:
    fold = implementation.replay.RunFold()
    values = [record(0, ACCEPTED), record(1, STARTED), record(3, STARTED)]
    with pytest.raises(MalformedRecord):
        fold.feed_all(values)
    assert fold.summary() == folded(implementation, ACCEPTED, STARTED)


# ---- going on from a summary ----


@pytest.mark.parametrize("seed", range(6))
def test_going_on_from_any_summary_equals_one_go(implementation: Implementation, seed: int) -> None:
    values = [
        encode_record(new.kind, new.flags, offset, new.timestamp_us, new.payload)
        for offset, new in enumerate(history(seed))
    ]
    whole = implementation.replay.RunFold()
    assert whole.feed_all(values) == len(values)
    for cut in range(len(values) + 1):
        first = implementation.replay.RunFold()
        first.feed_all(values[:cut])
        stored = msgspec.msgpack.decode(plain(first.summary()), type=RunSummary)
        rest = implementation.replay.RunFold(stored)
        rest.feed_all(values[cut:])
        assert rest.summary() == whole.summary()


def test_a_summary_does_not_change_behind_its_owners_back(implementation: Implementation) -> None:
    begin = RunSummary(next_offset=0)
    fold = implementation.replay.RunFold(begin)
    early = fold.summary()
    fold.feed(record(0, ACCEPTED))
    assert begin == early == RunSummary()


def test_the_histories_of_the_suite_have_every_kind() -> None:
    kinds = {new.kind for seed in range(40) for new in history(seed)}
    assert kinds == set(RecordKind)
    ends = {STATUS_AFTER.get(history(seed)[-1].kind) for seed in range(40)}
    assert ends >= TERMINAL_STATUSES
