"""The plain twin of ext/replay.pyx: what a run's records, folded in their order, say about the run.
The specification; slow, and never used by the product.

A record yields the changes that it makes to the summary; they are applied together or, if anything
about the record is malformed, not at all. What the summary does not keep is not looked at, except
that the payload must be protobuf from end to end. The fold does not judge whether a record may
follow another (that is `core`), with one exception: nothing follows a terminal record.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from engine.base.errors import MalformedRecord
from engine.model.records import STATUS_AFTER, RecordKind
from engine.model.runs import TERMINAL_STATUSES, RunStatus, RunSummary
from tests.twins.offsets import decode_record
from tests.twins.protobuf import FIXED64, LENGTH_DELIMITED, VARINT, scan

COUNTER_MAX = 2**64 - 1

Changes = dict[str, Any]


class RunFold:
    def __init__(self, summary: RunSummary | None = None) -> None:
        self._summary = RunSummary() if summary is None else summary

    @property
    def next_offset(self) -> int:
        return self._summary.next_offset

    def summary(self) -> RunSummary:
        return msgspec.structs.replace(self._summary)

    def feed_all(self, values: Iterable[bytes]) -> int:
        return sum(1 for value in values if self.feed(value) == 0)

    def feed(self, value: bytes) -> int:
        kind, _, offset_low, timestamp_us, payload = decode_record(value)
        before = self._summary
        if offset_low != before.next_offset & 0xFFFF_FFFF:
            raise MalformedRecord("the segment has a gap")
        if before.status in TERMINAL_STATUSES:
            raise MalformedRecord("it follows the run's terminal record")
        changes = self._changes(RecordKind(kind), timestamp_us, Fields(payload))
        changes |= {"next_offset": before.next_offset + 1, "updated_us": timestamp_us}
        self._summary = msgspec.structs.replace(before, **changes)
        return 0

    def _changes(self, kind: RecordKind, timestamp_us: int, fields: Fields) -> Changes:
        changes: Changes = {}
        status = STATUS_AFTER.get(kind)
        if status is not None:
            changes["status"] = status
        if status in TERMINAL_STATUSES:
            changes["completed_us"] = timestamp_us
        rule = RULES.get(kind)
        return changes if rule is None else changes | rule(self._summary, timestamp_us, fields)


class Fields:
    """The fields of a message. Of a field that comes twice the last one counts; one of another
    wire type than it should have is somebody else's."""

    def __init__(self, message: bytes) -> None:
        try:
            self._fields = list(scan(message))
        except ValueError as error:
            raise MalformedRecord(f"not protobuf: {error}") from error

    def all(self, number: int, wire_type: int) -> list[Any]:
        return [value for n, w, value in self._fields if (n, w) == (number, wire_type)]

    def number(self, number: int, bits: int = 64) -> int:
        values: list[int] = self.all(number, VARINT)
        return values[-1] & (1 << bits) - 1 if values else 0

    def flag(self, number: int) -> bool:
        return self.number(number) != 0

    def double(self, number: int) -> float:
        values = self.all(number, FIXED64)
        return struct.unpack("<d", values[-1].to_bytes(8, "little"))[0] if values else 0.0

    def raw(self, number: int) -> bytes:
        values = self.all(number, LENGTH_DELIMITED)
        return values[-1] if values else b""

    def text(self, number: int, default: str = "") -> str:
        try:
            values = [value.decode() for value in self.all(number, LENGTH_DELIMITED)]
        except UnicodeDecodeError as error:
            raise MalformedRecord(f"field {number} is not UTF-8") from error
        return values[-1] if values else default


def _sum(left: int, right: int) -> int:
    return min(left + right, COUNTER_MAX)  # stays there, rather than beginning anew


def _accepted(_: RunSummary, timestamp_us: int, fields: Fields) -> Changes:
    return {
        "created_us": timestamp_us,
        "project_id": fields.text(1),
        "deployment_id": fields.text(2),
        "component": fields.text(3),
        "component_kind": fields.number(4, bits=31),
        "trace_id": fields.text(10),
        "correlation_id": fields.text(11),
        "parent_run_id": fields.raw(12),
        "prompt_version": fields.text(15),
    }


def _started(run: RunSummary, timestamp_us: int, fields: Fields) -> Changes:
    return {
        "attempt": fields.number(1, bits=32),
        "lease_epoch": fields.number(2),
        "started_us": run.started_us or timestamp_us,  # the first attempt's
    }


def _step_completed(run: RunSummary, _: int, fields: Fields) -> Changes:
    return {
        "steps_completed": run.steps_completed + 1,
        "tool_calls": _sum(run.tool_calls, fields.flag(10)),
    }


def _step_failed(run: RunSummary, _: int, fields: Fields) -> Changes:
    return {
        "steps_failed": run.steps_failed + 1,
        "tool_calls": _sum(run.tool_calls, fields.flag(10)),
    }


def _wait_created(run: RunSummary, _: int, fields: Fields) -> Changes:
    parks = fields.flag(12)
    return {
        "waits_open": run.waits_open + 1,
        "status": RunStatus.WAITING if parks else run.status,
    }


def _wait_resolved(run: RunSummary, _: int, __: Fields) -> Changes:
    is_waiting = run.status == RunStatus.WAITING
    return {
        "waits_open": max(0, run.waits_open - 1),
        "status": RunStatus.QUEUED if is_waiting else run.status,
    }


def _usage(run: RunSummary, _: int, fields: Fields) -> Changes:
    return {
        "model": fields.text(2, default=run.model),
        "tokens_in": _sum(run.tokens_in, fields.number(3)),
        "tokens_out": _sum(run.tokens_out, fields.number(4)),
        "cost_usd": run.cost_usd + fields.double(5),
        "tool_calls": _sum(run.tool_calls, fields.number(6, bits=32)),
    }


def _error_in(number: int) -> Callable[[RunSummary, int, Fields], Changes]:
    def changes(_: RunSummary, __: int, fields: Fields) -> Changes:
        code = message = ""
        # A message that comes twice is merged, field by field.
        for error in map(Fields, fields.all(number, LENGTH_DELIMITED)):
            code, message = error.text(1, default=code), error.text(2, default=message)
        return {"error_code": code, "error_message": message}

    return changes


def _counted(name: str) -> Callable[[RunSummary, int, Fields], Changes]:
    return lambda run, _, __: {name: getattr(run, name) + 1}


# RUN_YIELDED and RUN_CANCELLED change nothing but the status; STATE_READ and STATE_CONFLICTED not
# even that.
RULES: dict[RecordKind, Callable[[RunSummary, int, Fields], Changes]] = {
    RecordKind.RUN_ACCEPTED: _accepted,
    RecordKind.RUN_STARTED: _started,
    RecordKind.STEP_COMPLETED: _step_completed,
    RecordKind.STEP_FAILED: _step_failed,
    RecordKind.WAIT_CREATED: _wait_created,
    RecordKind.WAIT_RESOLVED: _wait_resolved,
    RecordKind.SIGNAL_RECEIVED: _counted("signals_received"),
    RecordKind.CHILD_STARTED: _counted("children_started"),
    RecordKind.CHILD_FINISHED: _counted("children_finished"),
    RecordKind.STATE_CHANGED: _counted("state_changes"),
    RecordKind.USAGE_REPORTED: _usage,
    RecordKind.RUN_RETRYING: _error_in(2),
    RecordKind.CANCEL_REQUESTED: lambda _, __, ___: {"cancel_requested": True},
    RecordKind.RUN_COMPLETED: lambda _, __, ___: {"error_code": "", "error_message": ""},
    RecordKind.RUN_FAILED: _error_in(1),
}
