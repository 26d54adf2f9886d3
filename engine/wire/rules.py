"""What a worker may say: a rule for every field of every frame and record that comes from one.

The table stands beside the protocol, and a test holds it against the `.proto` files: a new field
without a rule fails. The worker door applies it to the bytes before anything else looks at them,
and the SDK to what it is about to send, so that behind the border a value cannot be wrong: ids have
their length, numbers are finite and in range, text is UTF-8 and bounded, values are JSON.

Knows forms only. Whether a value makes sense where a run stands is a matter of `core`.
"""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from engine.base import limits
from engine.base.errors import LimitExceeded, MalformedRecord
from engine.base.ids import RunId
from engine.ext.fields import read_fields
from engine.model import payloads, worker_frames
from engine.model.payloads import PAYLOAD_TYPES
from engine.model.records import RecordKind
from engine.model.retry import wrong_in
from engine.wire import codec, scan
from engine.wire.generated.engine import v1
from engine.wire.json_text import check_json

_NUMBER, _TEXT, _DATA, _DOUBLE, _FLAG, _LIST = range(1, 7)  # as `read_fields` names them

_VARINT_MAX: Final = 2**64 - 1
_POLICY: Final = codec.shape_of(payloads.RetryPolicy, v1)

RUN_ID_BYTES: Final = 16

# What a rule says of a value that it does not accept; None for one that it does.
Rule = Callable[[Any], str | None]


def run_id(value: bytes) -> str | None:
    if len(value) == RUN_ID_BYTES:
        return None
    return f"has {len(value)} bytes, and a run id has {RUN_ID_BYTES}"


def json_value(value: bytes) -> str | None:
    """Empty stands for null."""
    if not value:
        return None
    try:
        check_json(value)
    except ValueError as error:
        return f"is not JSON: {error}"
    return None


def anything(value: object) -> str | None:
    """For flags, and for what the type on the wire bounds as far as is needed."""
    return None


def up_to(number_max: int) -> Rule:
    def rule(value: int) -> str | None:
        return None if value <= number_max else f"is {value}, and at most {number_max} is allowed"

    return rule


def text(characters_max: int) -> Rule:
    def rule(value: str) -> str | None:
        if len(value) <= characters_max:
            return None
        return f"has {len(value)} characters, and at most {characters_max} are allowed"

    return rule


def one_of(members: type[enum.IntEnum]) -> Rule:
    known = frozenset(members)
    names = ", ".join(f"{member.value} ({member.name})" for member in members)

    def rule(value: int) -> str | None:
        return None if value in known else f"is {value}, and only {names} are known here"

    return rule


def texts(count_max: int, bytes_max: int) -> Rule:
    def rule(value: tuple[bytes, ...]) -> str | None:
        if len(value) > count_max:
            return f"has {len(value)} items, and at most {count_max} are allowed"
        for item in value:
            if len(item) > bytes_max:
                return f"has an item of {len(item)} bytes, and at most {bytes_max} are allowed"
            try:
                item.decode()
            except UnicodeDecodeError as error:
                return f"has an item that is not UTF-8: {error.reason}"
        return None

    return rule


def amount(value: float) -> str | None:
    """Of money; also of what was given back."""
    if math.isfinite(value) and abs(value) <= limits.cost_usd_max:
        return None
    return f"is {value}, and only an amount up to {limits.cost_usd_max} is allowed"


def message(struct_type: type[msgspec.Struct]) -> Rule:
    def rule(value: bytes) -> str | None:
        return _wrong_in(struct_type, value)

    return rule


def messages(struct_type: type[msgspec.Struct], count_max: int) -> Rule:
    def rule(value: tuple[bytes, ...]) -> str | None:
        if len(value) > count_max:
            return f"has {len(value)} items, and at most {count_max} are allowed"
        for at, item in enumerate(value):
            wrong = _wrong_in(struct_type, item)
            if wrong is not None:
                return f"item {at}: {wrong}"
        return None

    return rule


POSITION: Final = up_to(limits.position_max)
TIME: Final = up_to(limits.time_ms_max)
NAME: Final = text(limits.operation_name_length_max)

# Bytes, text and numbers whose own checks come right behind the door and say more than a rule can:
# the token (compared, never kept), the schemas, names of workers and deployments, the kind of an
# entry, what an error says. A size that is not bounded here is bounded by the message.
CHECKED_BEHIND: Final = anything

RULES: Final[Mapping[type[msgspec.Struct], Mapping[str, Rule]]] = {
    worker_frames.Register: {
        "token": CHECKED_BEHIND,
        "deployment_id": CHECKED_BEHIND,
        "service_name": text(limits.service_name_length_max),
        "components": messages(worker_frames.Component, limits.components_per_worker_max),
        "capacity": CHECKED_BEHIND,
        "sdk_version": text(limits.version_length_max),
        "worker_id": CHECKED_BEHIND,
    },
    worker_frames.Component: {
        "name": CHECKED_BEHIND,
        "kind": CHECKED_BEHIND,
        "input_schema": CHECKED_BEHIND,
        "output_schema": CHECKED_BEHIND,
        "retry": message(payloads.RetryPolicy),
    },
    worker_frames.Drain: {"reason": text(limits.reason_length_max)},
    payloads.RetryPolicy: {
        # As a whole, by `wrong_in`: its numbers bound each other's meaning.
        **dict.fromkeys(payloads.RetryPolicy.__struct_fields__, anything),
        "non_retryable_codes": texts(limits.retry_codes_max, 4 * limits.retry_code_length_max),
    },
    payloads.Error: {
        **dict.fromkeys(payloads.Error.__struct_fields__, anything),
    },
    payloads.StepCompleted: {
        "position": POSITION,
        "name": NAME,
        "key": NAME,
        "input": json_value,
        "output": json_value,
        "started_ms": TIME,
        "finished_ms": TIME,
        "attempt": anything,
        "lease_epoch": anything,
        "tool": anything,
    },
    payloads.StepFailed: {
        "position": POSITION,
        "name": NAME,
        "key": NAME,
        "input": json_value,
        "error": message(payloads.Error),
        "started_ms": TIME,
        "finished_ms": TIME,
        "attempt": anything,
        "lease_epoch": anything,
        "tool": anything,
        "retry_at_ms": TIME,
    },
    payloads.WaitCreated: {
        "position": POSITION,
        "wait_id": text(limits.wait_id_length_max),
        "kind": one_of(payloads.WaitKind),
        "name": text(limits.waits_open_bytes_max),
        "due_ms": TIME,
        "question": text(limits.waits_open_bytes_max),
        "input_type": NAME,
        "options": texts(limits.wait_options_max, limits.waits_open_bytes_max),
        "default": json_value,
        "has_default": anything,
        "lease_epoch": anything,
        "parks": anything,
    },
    payloads.ChildStarted: {
        "position": POSITION,
        "child_run_id": run_id,
        "component": text(limits.component_name_length_max),
        "mode": one_of(payloads.ChildMode),
        "input": json_value,
        "lease_epoch": anything,
        "entity_key": text(limits.key_length_max),
    },
    payloads.StateChanged: {
        "position": POSITION,
        "scope": one_of(payloads.StateScope),
        "scope_key": text(limits.state_scope_key_bytes_max),
        "name": text(limits.state_name_bytes_max),
        "value": json_value,
        "revision": anything,
        "deleted": anything,
        "lease_epoch": anything,
        "expected_revision": anything,
        "has_expected": anything,
    },
    payloads.StateRead: {
        "position": POSITION,
        "scope": one_of(payloads.StateScope),
        "scope_key": text(limits.state_scope_key_bytes_max),
        "name": text(limits.state_name_bytes_max),
        "value": json_value,
        "revision": anything,
        "found": anything,
        "lease_epoch": anything,
    },
    payloads.UsageReported: {
        "position": POSITION,
        "model": NAME,
        "tokens_in": up_to(limits.tokens_max),
        "tokens_out": up_to(limits.tokens_max),
        "cost_usd": amount,
        "tool_calls": up_to(limits.tool_calls_max),
        "lease_epoch": anything,
    },
    payloads.RunCompleted: {"output": json_value, "lease_epoch": anything},
    payloads.RunFailed: {"error": message(payloads.Error), "lease_epoch": anything},
}

# The same for the frames of every step, which are scanned and never become a Struct: what bounds
# each field. The scan is `engine.ext.frames`; it refuses numbers over their type and text that is
# not UTF-8.
HOT_RULES: Final[Mapping[str, Mapping[str, str]]] = {
    "Report": {
        "run_id": "checked_run_id",
        "lease_epoch": "compared with the lease's, and not kept",
        "sequence": "the one after the last, or it is a duplicate, or the run is taken back",
        "entries": "limits.records_per_transition_max, by the scan",
    },
    "Entry": {
        "kind": "a RecordKind that a worker may report, by the core",
        "payload": "check_record",
        "offset": "passed over: the engine gives it",
        "timestamp_us": "passed over: the engine gives it",
    },
    "Heartbeat": {"sent_ms": "passed over"},
    "Emit": {
        "run_id": "checked_run_id",
        "lease_epoch": "compared with the lease's, and not kept",
        "event": "check_emit",
        "data": "check_emit",
    },
}


class _Read(msgspec.Struct, frozen=True):
    """How the bytes of a message are read, and what is asked of each value."""

    table: bytes
    checks: tuple[tuple[int, str, Rule], ...]


@functools.cache
def _read(struct_type: type[msgspec.Struct]) -> _Read:
    shape = codec.shape_of(struct_type, v1)
    rules = RULES[struct_type]
    table = bytearray(max(shape.fields) + 1)
    for number, field in shape.fields.items():
        table[number] = _sort_of(field)
    checks = tuple(
        (number, field.name, rule)
        for number, field in shape.fields.items()
        if (rule := _rule_of(field, rules[field.name])) is not anything
    )
    return _Read(bytes(table), checks)


def _rule_of(field: codec.Field, rule: Rule) -> Rule:
    """Where the table asks nothing of a number, it is at least one of its type: the reading of the
    bytes takes 64 bits for each."""
    if rule is anything and field.integer_max is not None and field.integer_max < _VARINT_MAX:
        return up_to(field.integer_max)
    return rule


def _sort_of(field: codec.Field) -> int:
    if field.repeated:
        return _LIST
    if field.is_bool:
        return _FLAG
    if field.is_text:
        return _TEXT
    if field.wire_type == scan.FIXED64:
        return _DOUBLE
    return _NUMBER if field.integer_max is not None else _DATA


def _wrong_in(struct_type: type[msgspec.Struct], data: bytes) -> str | None:
    how = _read(struct_type)
    try:
        values = read_fields(data, 0, how.table, is_strict=True)
    except MalformedRecord as error:
        return error.message
    for number, name, rule in how.checks:
        wrong = rule(values[number])
        if wrong is not None:
            return f"its {name} {wrong}"
    if struct_type is payloads.RetryPolicy:
        return _wrong_in_policy(data)
    return None


def _wrong_in_policy(data: bytes) -> str | None:
    try:
        policy = codec.decode(_POLICY, data)
    except ValueError as error:
        return str(error)
    assert isinstance(policy, payloads.RetryPolicy)
    return wrong_in(policy)


def check_report(entries: Sequence[tuple[int, bytes]]) -> None:
    """Raises `LimitExceeded` for a report that would hold up everybody else; before it is read."""
    if len(entries) <= 1:
        return
    if len(entries) > limits.report_entries_max:
        raise LimitExceeded(
            f"a report of {len(entries)} entries is over the limit of "
            f"{limits.report_entries_max}; report less at a time",
            records=len(entries),
        )
    children = sum(kind == RecordKind.CHILD_STARTED for kind, _ in entries)
    if children > limits.report_children_max:
        raise LimitExceeded(
            f"a report that starts {children} children is over the limit of "
            f"{limits.report_children_max}; start them in several reports",
            children=children,
        )
    size = sum(len(data) for _, data in entries)
    if size > limits.report_bytes_max:
        raise LimitExceeded(
            f"a report of {size} bytes is over the limit of {limits.report_bytes_max}; report less "
            "at a time",
            length=size,
        )
    waits = [len(data) for kind, data in entries if kind == RecordKind.WAIT_CREATED]
    if len(waits) > 1 and sum(waits) > limits.report_waits_bytes_max:
        raise LimitExceeded(
            f"a report whose waits have {sum(waits)} bytes is over the limit of "
            f"{limits.report_waits_bytes_max}; report larger ones one at a time",
            length=sum(waits),
        )


def check_record(kind: RecordKind, payload: bytes) -> None:
    """Raises `MalformedRecord` for what a worker may not put into a record of this kind. Kinds that
    a worker does not report at all are not looked at."""
    struct_type = PAYLOAD_TYPES.get(kind)
    if struct_type is None or struct_type not in RULES:
        return
    wrong = _wrong_in(struct_type, payload)
    if wrong is not None:
        raise MalformedRecord(
            f"a {kind.name} record cannot be taken: {wrong}; the worker has to send what the "
            "protocol allows",
            kind=kind.name,
        )


def check_frame(frame_type: type[msgspec.Struct], message: bytes) -> None:
    """The same for a cold frame."""
    wrong = _wrong_in(frame_type, message)
    if wrong is not None:
        name = frame_type.__name__
        raise MalformedRecord(
            f"a {name} frame cannot be taken: {wrong}; the worker has to send what the protocol "
            "allows",
            frame=name,
        )


def checked_run_id(value: bytes) -> RunId:
    """Of a hot frame, which is about one run."""
    wrong = run_id(value)
    if wrong is not None:
        raise MalformedRecord(f"a frame cannot be taken: its run_id {wrong}", field="run_id")
    return RunId(value)


def check_emit(event: str, data: bytes) -> None:
    """What the scan of a hot Emit frame found; its name was decoded there."""
    wrong = text(limits.emit_name_length_max)(event)
    if wrong is None and (not event or not event.isprintable()):
        wrong = "is empty, or has characters that cannot be printed"
    if wrong is not None:
        raise MalformedRecord(f"an event cannot be emitted: its name {wrong}", field="event")
    if len(data) > limits.emit_bytes_max:
        raise MalformedRecord(
            f"an event cannot be emitted: its data has {len(data)} bytes, at most "
            f"{limits.emit_bytes_max} are allowed; put large values into a step's output",
            field="data",
        )
    wrong = json_value(data)
    if wrong is not None:
        raise MalformedRecord(f"an event cannot be emitted: its data {wrong}", field="data")
