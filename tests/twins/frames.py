"""The plain twin of ext/frames.pyx: what the bytes of the hot frames are and what they say, message
by message, as `protos/engine/v1/worker.proto` has it. The specification; slow, and never used by
the product.

A message here is the table of its fields. Reading: of a field that comes twice the last one counts,
one that is not in the table is a newer version's and skipped, one of another wire type or over its
type is refused. Writing: in the order of the table, and what is 0 or empty is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from engine.base import limits
from engine.base.errors import LimitExceeded, MalformedRecord
from tests.twins.protobuf import LENGTH_DELIMITED, VARINT, scan

NUMBER_MAX = {"uint32": 2**32 - 1, "uint64": 2**64 - 1, "enum": 2**31 - 1, "bool": 2**64 - 1}
EMPTY = {"bytes": b"", "string": "", "run_id": None, "bool": False}


class Message(NamedTuple):
    """What each field is; a Message for a list of them."""

    fields: dict[int, str | Message]


NEW_ENTRY = Message({1: "uint32", 2: "bytes"})
ENTRY = Message({1: "uint32", 2: "bytes", 3: "uint64", 4: "uint64"})
REPORT = Message({1: "run_id", 2: "uint64", 3: "uint64", 4: NEW_ENTRY})
HEARTBEAT = Message({1: "uint64"})
EMIT = Message({1: "run_id", 2: "uint64", 3: "string", 4: "bytes"})
DISPATCH = Message(
    {1: "run_id", 2: "uint64", 3: "uint32", 4: "string", 5: "enum", 6: ENTRY, 7: "bool"}
)
ACK = Message({1: "run_id", 2: "uint64", 3: "uint64"})
DELIVER = Message({1: "run_id", 2: "uint64", 3: ENTRY})


class Hot(NamedTuple):
    name: str
    message: Message


HOT_OF_WORKER = {2: Hot("heartbeat", HEARTBEAT), 3: Hot("report", REPORT), 5: Hot("emit", EMIT)}
HOT_OF_ENGINE = {2: Hot("dispatch", DISPATCH), 3: Hot("ack", ACK), 4: Hot("deliver", DELIVER)}
WORKER_FRAME_MAX, ENGINE_FRAME_MAX = 5, 7


def build_report(
    run_id: bytes, lease_epoch: int, sequence: int, entries: list[tuple[int, bytes]]
) -> bytes:
    return _frame(3, REPORT, run_id, lease_epoch, sequence, entries)


def build_emit(run_id: bytes, lease_epoch: int, event: str, data: bytes) -> bytes:
    return _frame(5, EMIT, run_id, lease_epoch, event, data)


def build_dispatch(
    run_id: bytes,
    lease_epoch: int,
    attempt: int,
    component: str,
    kind: int,
    entries: list[tuple[int, bytes, int, int]],
    more: bool,
) -> bytes:
    return _frame(2, DISPATCH, run_id, lease_epoch, attempt, component, kind, entries, more)


def build_ack(run_id: bytes, lease_epoch: int, sequence: int) -> bytes:
    return _frame(3, ACK, run_id, lease_epoch, sequence)


def build_deliver(
    run_id: bytes, lease_epoch: int, entries: list[tuple[int, bytes, int, int]]
) -> bytes:
    return _frame(4, DELIVER, run_id, lease_epoch, entries)


def pack_frames(frames: list[bytes]) -> bytes:
    if len(frames) > limits.stream_message_frames_max:
        raise LimitExceeded("too many frames")
    return b"".join(_delimited(1, frame) for frame in frames)


def scan_worker_frames(message: bytes) -> list[tuple[Any, ...]]:
    return _scanned(message, HOT_OF_WORKER, WORKER_FRAME_MAX)


def scan_engine_frames(message: bytes) -> list[tuple[Any, ...]]:
    return _scanned(message, HOT_OF_ENGINE, ENGINE_FRAME_MAX)


def _frame(number: int, message: Message, *values: Any) -> bytes:
    return _delimited(number, _written(message, values))


def _written(message: Message, values: Iterable[Any]) -> bytes:
    fields = zip(message.fields.items(), values, strict=True)
    return b"".join(_field(number, kind, value) for (number, kind), value in fields)


def _field(number: int, kind: str | Message, value: Any) -> bytes:
    if isinstance(kind, Message):
        _check_count(kind, value)
        return b"".join(_delimited(number, _written(kind, part)) for part in value)
    if kind in NUMBER_MAX:
        assert 0 <= value <= NUMBER_MAX[kind]
        return _varint(number << 3 | VARINT) + _varint(value) if value else b""
    assert kind != "run_id" or len(value) == 16
    data = _utf8(value) if kind == "string" else value
    return _delimited(number, data) if data else b""


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MalformedRecord("half a character") from error


def _check_count(kind: Message, entries: Sequence[object]) -> None:
    if kind is NEW_ENTRY and len(entries) > limits.records_per_transition_max:
        raise LimitExceeded("a report is one transition")


def _delimited(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes([value])
    return bytes([value & 0x7F | 0x80]) + _varint(value >> 7)


def _scanned(data: bytes, hot: dict[int, Hot], known_max: int) -> list[tuple[Any, ...]]:
    try:
        frames = [_delimited_data(w, v) for n, w, v in scan(data) if n == 1]
        if len(frames) > limits.stream_message_frames_max:
            raise LimitExceeded("too many frames")
        return [_frame_said(frame, hot, known_max) for frame in frames]
    except ValueError as error:
        raise MalformedRecord(f"a message cannot be read: {error}") from error


def _frame_said(frame: bytes, hot: dict[int, Hot], known_max: int) -> tuple[Any, ...]:
    fields = list(scan(frame))
    known = [(n, _delimited_data(w, v)) for n, w, v in fields if n <= known_max]
    unknown = [(n, v) for n, w, v in fields if n > known_max and w == LENGTH_DELIMITED]
    if len(known) > 1:
        raise ValueError("a frame says two things")
    number, data = (known or unknown or [(0, b"")])[-1]
    if number not in hot:
        return "cold", number, data
    assert isinstance(data, bytes)
    return hot[number].name, *_read(hot[number].message, data)


def _read(message: Message, data: bytes) -> list[Any]:
    """The fields' values in the order of the table."""
    values: dict[int, Any] = {
        number: [] if isinstance(kind, Message) else EMPTY.get(kind, 0)
        for number, kind in message.fields.items()
    }
    for number, wire_type, value in scan(data):
        kind = message.fields.get(number)
        if isinstance(kind, Message):
            values[number].append(_entry(kind, _delimited_data(wire_type, value)))
            _check_count(kind, values[number])
        elif kind is not None:
            values[number] = _value(kind, wire_type, value)
    if None in values.values():
        raise ValueError("a frame does not say which run it is about")
    return list(values.values())


def _entry(message: Message, data: bytes) -> tuple[Any, ...]:
    """A new entry's offset and time are read like any entry's, since they must be what they should
    be, and left out of what it says."""
    return tuple(_read(ENTRY, data)[: len(message.fields)])


def _value(kind: str, wire_type: int, value: int | bytes) -> Any:
    if kind in NUMBER_MAX:
        if wire_type != VARINT or not isinstance(value, int) or value > NUMBER_MAX[kind]:
            raise ValueError(f"not a {kind}")
        return bool(value) if kind == "bool" else value
    data = _delimited_data(wire_type, value)
    if kind == "run_id" and len(data) != 16:
        raise ValueError("a run id has 16 bytes")
    return data.decode() if kind == "string" else data


def _delimited_data(wire_type: int, value: int | bytes) -> bytes:
    if wire_type != LENGTH_DELIMITED:
        raise ValueError(f"wire type {wire_type}")
    assert isinstance(value, bytes)
    return value
