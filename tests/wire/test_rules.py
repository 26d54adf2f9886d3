"""The rules of what a worker may say: one for each field of the protocol, each with the values just
inside and just outside of it."""

from __future__ import annotations

import math
import timeit
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from engine.base import limits
from engine.base.errors import LimitExceeded, MalformedRecord
from engine.model import payloads
from engine.model.payloads import (
    PAYLOAD_TYPES,
    ChildMode,
    ChildStarted,
    Error,
    Payload,
    RetryPolicy,
    RunCompleted,
    RunFailed,
    StateChanged,
    StateRead,
    StateScope,
    StepCompleted,
    StepFailed,
    UsageReported,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.model.worker_frames import Component, Drain, Register
from engine.wire import journal
from engine.wire.rules import (
    HOT_RULES,
    RULES,
    check_emit,
    check_frame,
    check_record,
    check_report,
    checked_run_id,
)
from engine.wire.worker import decode_worker_frame, encode_worker_frame
from tests.fuzz.courses import Course
from tests.wire import google_messages

KINDS = {struct_type: kind for kind, struct_type in PAYLOAD_TYPES.items()}
REPORTED = [
    StepCompleted, StepFailed, WaitCreated, ChildStarted, StateChanged, StateRead, UsageReported,
    RunCompleted, RunFailed,
]  # fmt: skip
DEEP = b"[" * 100_000 + b"]" * 100_000
NOT_JSON = [b"{", b"1 2", b"NaN", b"'x'", b'"\xff"', b'"\xed\xa0\x80"', b"\x00", b'1,"x":2', DEEP]
RUN = bytes(range(16))


def said_by_workers() -> Iterator[tuple[str, str]]:
    """Every message and field that can come from a worker, as the sources of the protocol say."""
    todo = ["WorkerFrame", *(struct.__name__ for struct in REPORTED)]
    seen = set(todo)
    while todo:
        name = todo.pop()
        for field in google_messages.messages()[name].fields:
            if name != "WorkerFrame":
                yield name, field.name
            inner = field.message_type
            if inner is not None and inner.name not in seen:
                seen.add(inner.name)
                todo.append(inner.name)


def test_every_field_that_a_worker_can_set_has_a_rule_and_no_other() -> None:
    ruled = {(struct.__name__, field) for struct, rules in RULES.items() for field in rules}
    hot = {(name, field) for name, rules in HOT_RULES.items() for field in rules}
    assert not ruled & hot
    assert ruled | hot == set(said_by_workers())


def test_what_a_worker_may_report_is_what_the_rules_are_for() -> None:
    """As `worker.proto` lists it above Report."""
    comment = (google_messages.PROTOS / "engine/v1/worker.proto").read_text()
    listed = comment.split("A worker may report ")[1].split(";")[0].replace("//", " ")
    names = {word.strip(",") for word in listed.split() if word != "and"}
    assert names == {KINDS[struct].name for struct in REPORTED}


def check(payload: Payload) -> None:
    check_record(KINDS[type(payload)], journal.encode(payload))


USUAL: dict[Any, dict[str, Any]] = {
    ChildStarted: {"child_run_id": RUN, "mode": ChildMode.JOIN},
    WaitCreated: {"kind": WaitKind.SIGNAL},
    StateChanged: {"scope": StateScope.RUN},
    StateRead: {"scope": StateScope.USER},
}


def record(struct_type: Any, **fields: Any) -> Payload:
    made: Payload = struct_type(**{**USUAL.get(struct_type, {}), **fields})
    return made


BOUNDS: list[tuple[Any, str, Any, Any]] = [
    *((struct, "position", limits.position_max, limits.position_max + 1)
      for struct in REPORTED if "position" in struct.__struct_fields__),
    (StepCompleted, "name", "n" * 4096, "n" * 4097),
    (StepCompleted, "key", "n" * 4096, "n" * 4097),
    (StepCompleted, "started_ms", limits.time_ms_max, limits.time_ms_max + 1),
    (StepCompleted, "finished_ms", limits.time_ms_max, 2**64 - 1),
    (StepFailed, "name", "n" * 4096, "n" * 4097),
    (StepFailed, "key", "n" * 4096, "n" * 4097),
    (StepFailed, "started_ms", limits.time_ms_max, limits.time_ms_max + 1),
    (StepFailed, "finished_ms", limits.time_ms_max, limits.time_ms_max + 1),
    (StepFailed, "retry_at_ms", limits.time_ms_max, limits.time_ms_max + 1),
    (WaitCreated, "wait_id", "w" * limits.wait_id_length_max, "w" * 4096),
    (WaitCreated, "due_ms", limits.time_ms_max, limits.time_ms_max + 1),
    (WaitCreated, "name", "n", "n" * (limits.waits_open_bytes_max + 1)),
    (WaitCreated, "question", "n", "n" * (limits.waits_open_bytes_max + 1)),
    (WaitCreated, "input_type", "text", "n" * 4097),
    (WaitCreated, "options", ("a",) * 1_000, ("a",) * 1_001),
    (ChildStarted, "child_run_id", RUN, b""),
    (ChildStarted, "child_run_id", RUN, RUN[:15]),
    (ChildStarted, "child_run_id", RUN, RUN + b"x"),
    (ChildStarted, "child_run_id", RUN, b"x" * 1_000),
    (ChildStarted, "component", "c" * 128, "c" * 129),
    (ChildStarted, "entity_key", "c" * limits.key_length_max, "c" * (limits.key_length_max + 1)),
    (StateChanged, "scope_key", "c", "c" * (limits.state_scope_key_bytes_max + 1)),
    (StateChanged, "name", "c", "c" * (limits.state_name_bytes_max + 1)),
    (StateRead, "scope_key", "c", "c" * (limits.state_scope_key_bytes_max + 1)),
    (StateRead, "name", "c", "c" * (limits.state_name_bytes_max + 1)),
    (WaitCreated, "kind", WaitKind.TIMER, 0),
    (WaitCreated, "kind", WaitKind.CHILD, 5),
    (ChildStarted, "mode", ChildMode.DETACH, 3),
    (ChildStarted, "mode", ChildMode.JOIN, 0),
    (StateChanged, "scope", StateScope.GLOBAL, 6),
    (StateChanged, "scope", StateScope.RUN, 0),
    (StateRead, "scope", StateScope.SESSION, 2**31 - 1),
    (UsageReported, "model", "m" * 4096, "m" * 4097),
    (UsageReported, "tokens_in", 2**53, 2**53 + 1),
    (UsageReported, "tokens_out", 2**53, 2**64 - 1),
    (UsageReported, "tool_calls", 2**32 - 1, None),
    (UsageReported, "cost_usd", -0.0, math.nan),
    (UsageReported, "cost_usd", 1e9, math.inf),
    (UsageReported, "cost_usd", -1e9, -math.inf),
    (UsageReported, "cost_usd", 1e-308, 1e300),
]  # fmt: skip
JSON_FIELDS = [
    (struct, field)
    for struct, rules in RULES.items()
    for field, rule in rules.items()
    if getattr(rule, "__name__", "") == "json_value"
]


@pytest.mark.parametrize(
    ("struct_type", "field", "inside", "outside"),
    BOUNDS,
    ids=[f"{row[0].__name__}.{row[1]}-{at}" for at, row in enumerate(BOUNDS)],
)
def test_a_field_holds_what_its_rule_says_and_nothing_more(
    struct_type: Any, field: str, inside: Any, outside: Any
) -> None:
    check(record(struct_type, **{field: inside}))
    if outside is not None:
        with pytest.raises(MalformedRecord, match=f"its {field} "):
            check(record(struct_type, **{field: outside}))


def test_every_rule_that_can_refuse_is_tried_here() -> None:
    tried = {(row[0], row[1]) for row in BOUNDS} | set(JSON_FIELDS) | {
        (StepFailed, "error"),
        (RunFailed, "error"),
        (RetryPolicy, "non_retryable_codes"),
    }  # fmt: skip
    refusing = {
        (struct, field)
        for struct, rules in RULES.items()
        for field, rule in rules.items()
        if rule.__name__ != "anything" and struct not in (Register, Component, Drain)
    }
    assert refusing == tried


@pytest.mark.parametrize(
    ("struct_type", "field"), JSON_FIELDS, ids=[f"{s.__name__}.{f}" for s, f in JSON_FIELDS]
)
def test_values_are_json(struct_type: Any, field: str) -> None:
    for value in (b"", b"null", b'{"a":[1,2.5e300,"\xc3\xa4"]}', b" 1 "):
        check(record(struct_type, **{field: value}))
    for value in NOT_JSON:
        with pytest.raises(MalformedRecord, match=f"its {field} is not JSON"):
            check(record(struct_type, **{field: value}))


@pytest.mark.parametrize("kind", [KINDS[struct] for struct in REPORTED], ids=lambda one: one.name)
@pytest.mark.parametrize(
    "raw",
    [
        b"\xff" * 10,  # a number that does not end
        b"\x0a",  # a field that is cut off
        b"\x0a\xff\xff\xff\xff\x0fx",  # longer than the message
        b"\x0b\x0c",  # a group
        b"\x00\x01",  # field 0
        b"\x09" + b"\x00" * 3,
        bytes(range(1, 60)),
    ],
)
def test_bytes_that_are_no_message_are_refused(kind: RecordKind, raw: bytes) -> None:
    with pytest.raises(MalformedRecord):
        check_record(kind, raw)


@pytest.mark.parametrize("kind", [KINDS[struct] for struct in REPORTED], ids=lambda one: one.name)
def test_what_is_taken_can_be_read(kind: RecordKind) -> None:
    """Made of each field's edges: behind the door everybody reads the bytes as they came."""
    course, taken = Course(int(kind)), 0
    course.edges = 0.05
    for _ in range(1_500):
        record = course.record(kind)
        try:
            check_record(kind, record)
        except MalformedRecord:
            continue
        journal.decode(kind, record)
        taken += 1
    assert taken > 100


@pytest.mark.parametrize("field", ["code", "message", "type", "traceback"])
def test_text_within_an_error_is_utf8(field: str) -> None:
    number = payloads.Error.__struct_fields__.index(field) + 1
    error = bytes([number << 3 | 2, 2]) + b"\xc3\x28"
    with pytest.raises(MalformedRecord, match="its error "):
        check_record(RecordKind.RUN_FAILED, bytes([1 << 3 | 2, len(error)]) + error)


def test_what_an_error_says_is_taken() -> None:
    check(RunFailed(error=Error(code="x", message="m" * 100_000, traceback="\x00")))


def register(**policy: Any) -> bytes:
    retry = RetryPolicy(**{"initial_ms": 100, "interval_ms_max": 1000, "factor": 2.0, **policy})
    frame = Register(components=(Component(name="c", kind=1, retry=retry),))
    return cold(frame)


def cold(frame: Any) -> bytes:
    """The message within the frame."""
    whole = encode_worker_frame(frame)
    at = 1
    while whole[at] & 0x80:
        at += 1
    return whole[at + 1 :]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"factor": value} for value in (math.nan, math.inf, -math.inf, -1.0, 1e300, 100_000.0)),
        *({"jitter": value} for value in (math.nan, math.inf, -math.inf, -0.1, 1.1, 1e300)),
        {"initial_ms": 2**40 + 1},
        {"interval_ms_max": 2**64 - 1},
        {"elapsed_ms_max": 2**40 + 1},
        {"attempts_max": 2**31 + 1},
        {"non_retryable_codes": ("c",) * 10_000},
        {"non_retryable_codes": ("c" * 10_000,)},
    ],
    ids=repr,
)
def test_a_retry_policy_that_no_run_could_keep_is_refused(wrong: dict[str, Any]) -> None:
    check_frame(Register, register())
    check_frame(Register, register(jitter=1.0))
    with pytest.raises(MalformedRecord, match="its components item 0: its retry"):
        check_frame(Register, register(**wrong))


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (Register(service_name="s" * 257), "service_name"),
        (Register(sdk_version="s" * 257), "sdk_version"),
        (Register(components=(Component(name="c"),) * 10_001), "components"),
        (Drain(reason="r" * 5_000), "reason"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, msgspec.Struct) else one,
)
def test_a_cold_frame_is_bounded(frame: Any, field: str) -> None:
    with pytest.raises(MalformedRecord, match=f"its {field} "):
        check_frame(type(frame), cold(frame))


def test_the_largest_registration_is_checked_as_quickly_as_it_is_read() -> None:
    """Once, the check of each component cost what the reading of twenty-five does."""
    components = tuple(Component(name=f"c{number}", kind=1) for number in range(1_000))
    frame = cold(Register(components=components))
    check_s = min(timeit.repeat(lambda: check_frame(Register, frame), number=1, repeat=7))
    read_s = min(timeit.repeat(lambda: decode_worker_frame(1, frame), number=1, repeat=7))
    assert check_s < 5 * read_s


STEP, CHILD = RecordKind.STEP_COMPLETED, RecordKind.CHILD_STARTED
HALF = limits.report_bytes_max // 2


@pytest.mark.parametrize(
    ("taken", "one_more"),
    [
        ([(STEP, b"")] * limits.report_entries_max, (STEP, b"")),
        ([(CHILD, b"")] * limits.report_children_max, (CHILD, b"")),
        ([(STEP, b"")] * 100 + [(CHILD, b"")] * limits.report_children_max, (CHILD, b"")),
        ([(STEP, bytes(HALF)), (CHILD, bytes(limits.report_bytes_max - HALF))], (STEP, b"1")),
        # A value may be as large as a record: alone it is taken.
        ([(STEP, bytes(limits.report_bytes_max + 1))], (STEP, b"")),
    ],
)
def test_a_report_is_no_larger_than_one_pass_of_the_loop_can_take(
    taken: list[tuple[int, bytes]], one_more: tuple[int, bytes]
) -> None:
    check_report(taken)
    with pytest.raises(LimitExceeded, match="a report "):
        check_report([*taken, one_more])


@pytest.mark.parametrize("length", [0, 1, 15, 17, 1_000])
def test_a_run_id_has_its_length(length: int) -> None:
    assert checked_run_id(RUN) == RUN
    with pytest.raises(MalformedRecord):
        checked_run_id(b"x" * length)


@pytest.mark.parametrize("event", ["", "a\rb", "a\nb", "\x00", "a\u2028b", "\u202e", "x" * 129])
def test_an_event_has_a_name_that_can_be_shown(event: str) -> None:
    check_emit("output.é" + "x" * 120, b"1")
    with pytest.raises(MalformedRecord, match="its name"):
        check_emit(event, b"1")


def test_what_is_emitted_is_json_and_bounded() -> None:
    check_emit("log.x", b'"' + b"x" * (limits.emit_bytes_max - 2) + b'"')
    check_emit("log.x", b"")
    for data in (*NOT_JSON, b'"' + b"x" * (limits.emit_bytes_max - 1) + b'"'):
        with pytest.raises(MalformedRecord, match="its data"):
            check_emit("log.x", data)
