"""Cold frames of the worker stream: what is written is read, Google's protobuf reads and writes the
same, and bytes that are no frame are a typed error."""

from __future__ import annotations

import contextlib
import enum
import functools
from typing import Any

import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import MalformedRecord
from engine.ext import frames
from engine.model.payloads import RetryPolicy
from engine.model.runs import ComponentKind
from engine.model.worker_frames import (
    ENGINE_FRAME_TYPES,
    WORKER_FRAME_TYPES,
    Component,
    Drain,
    EngineFrame,
    EngineFrameNumber,
    Heartbeat,
    Register,
    Registered,
    Revoke,
    RevokeReason,
    WorkerFrame,
    WorkerFrameNumber,
)
from engine.wire import worker
from tests.twins.protobuf import LENGTH_DELIMITED, scan
from tests.wire import google_messages
from tests.wire.strategies import mutated, of_newer_version, structs

FRAME_TYPES = [*WORKER_FRAME_TYPES.values(), *ENGINE_FRAME_TYPES.values()]
NUMBERS = {
    frame_type: number
    for types in (WORKER_FRAME_TYPES, ENGINE_FRAME_TYPES)
    for number, frame_type in types.items()
}

Frame = WorkerFrame | EngineFrame

every_frame = pytest.mark.parametrize("frame_type", FRAME_TYPES, ids=lambda one: one.__name__)


@functools.cache
def frames_of(frame_type: type[Frame]) -> st.SearchStrategy[Any]:
    return structs(google_messages.messages()[frame_type.__name__])


def decode(frame_type: type[Frame], message: bytes) -> Frame:
    number = NUMBERS[frame_type]
    if issubclass(frame_type, WorkerFrame):
        return worker.decode_worker_frame(number, message)
    return worker.decode_engine_frame(number, message)


def message_of(frame: Frame) -> bytes:
    """What the one member of an encoded frame holds."""
    ((number, wire_type, message),) = scan(worker.encode(frame))
    assert (number, wire_type) == (NUMBERS[type(frame)], LENGTH_DELIMITED)
    assert isinstance(message, bytes)
    return message


@every_frame
@given(data=st.data())
def test_what_is_written_is_read(frame_type: type[Frame], data: st.DataObject) -> None:
    frame = data.draw(frames_of(frame_type))
    assert decode(frame_type, message_of(frame)) == frame


@every_frame
@given(data=st.data())
def test_google_reads_what_we_write_and_we_what_google_writes(
    frame_type: type[Frame], data: st.DataObject
) -> None:
    frame = data.draw(frames_of(frame_type))
    outer = "WorkerFrame" if issubclass(frame_type, WorkerFrame) else "EngineFrame"
    theirs = google_messages.parse(outer, worker.encode(frame))
    member = theirs.WhichOneof("frame")
    assert member == frame_type.__name__.lower()
    assert google_messages.plain(getattr(theirs, member)) == google_messages.plain_struct(frame)
    assert decode(frame_type, google_messages.of_struct(frame).SerializeToString()) == frame


@every_frame
@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_as_google_reads_them(
    frame_type: type[Frame], data: st.DataObject
) -> None:
    damaged = mutated(message_of(data.draw(frames_of(frame_type))), data)
    try:
        frame = decode(frame_type, damaged)
    except MalformedRecord:
        return
    try:
        theirs = google_messages.parse(frame_type.__name__, damaged)
    except DecodeError:
        pytest.fail(f"read {frame} where google refuses")
    assert google_messages.plain(theirs) == google_messages.plain_struct(frame)


@every_frame
@given(data=st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_typed_error(frame_type: type[Frame], data: bytes) -> None:
    with contextlib.suppress(MalformedRecord):
        assert type(decode(frame_type, data)) is frame_type


@every_frame
def test_no_bytes_are_the_defaults(frame_type: type[Frame]) -> None:
    assert decode(frame_type, b"") == frame_type()
    assert worker.encode(frame_type()) == bytes([NUMBERS[frame_type] << 3 | 2, 0])


@every_frame
def test_fields_of_a_newer_version_are_skipped(frame_type: type[Frame]) -> None:
    assert decode(frame_type, of_newer_version()) == frame_type()


def test_the_scan_hands_on_what_is_cold() -> None:
    """The way of a cold frame through the stream: encoded, packed, scanned, decoded."""
    register = Register(worker_id="w1", components=(Component(name="checkout"),))
    packed = frames.pack_frames([worker.encode(register), worker.encode(Drain(reason="deploy"))])
    cold = [frame for frame in frames.scan_worker_frames(packed) if frame[0] == "cold"]
    decoded = [worker.decode_worker_frame(number, message) for _, number, message in cold]
    assert decoded == [register, Drain(reason="deploy")]


def test_components_keep_their_order_and_their_retry_policies() -> None:
    components = (
        Component(name="checkout", kind=ComponentKind.WORKFLOW, retry=RetryPolicy(attempts_max=3)),
        Component(name="charge", kind=ComponentKind.FUNCTION, input_schema=b'{"type":"object"}'),
        Component(),
    )
    register = Register(components=components, capacity=100)
    decoded = decode(Register, message_of(register))
    assert isinstance(decoded, Register)
    assert decoded.components == components
    assert decoded.components[0].kind is ComponentKind.WORKFLOW


def test_a_reason_of_a_newer_version_stays_a_number() -> None:
    for reason in (RevokeReason.FENCED, 1000):
        revoked = decode(Revoke, message_of(Revoke(reason=reason)))
        assert isinstance(revoked, Revoke)
        assert revoked.reason == reason
        assert isinstance(revoked.reason, RevokeReason) is (reason in tuple(RevokeReason))


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(Heartbeat(sent_ms=-1), id="negative"),
        pytest.param(Register(capacity=2**32), id="over uint32"),
        pytest.param(Registered(session=2**64), id="over uint64"),
        pytest.param(Revoke(reason=2**31), id="over an enum"),
        pytest.param(Drain(reason="\ud800"), id="half a character"),
        pytest.param(Register(components=(Component(kind=-1),)), id="negative, in a list"),
    ],
)
def test_what_the_wire_cannot_hold_is_not_sent(frame: Frame) -> None:
    with pytest.raises(MalformedRecord, match="cannot be written") as refusal:
        worker.encode(frame)
    assert refusal.value.details == {"frame": type(frame).__name__}


COMPONENT = b"\x22\x03\x0a\x01x"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x12\x05abc", id="cut short"),
        pytest.param(b"\x10\x05", id="a number for a name"),
        pytest.param(b"\x2a\x01a", id="text for a capacity"),
        pytest.param(b"\x12\x01\xff", id="not UTF-8"),
        pytest.param(b"\x20\x05", id="a number for a component"),
        pytest.param(COMPONENT + b"\x22\x03\x0a\x05x", id="cut short, in a list"),
        pytest.param(COMPONENT + b"\x22\x03\x0a\x01\xff", id="not UTF-8, in a list"),
        pytest.param(b"\x28\x80\x80\x80\x80\x10", id="a capacity of 33 bits"),
        pytest.param(b"\x13\x14", id="a group"),
    ],
)
def test_what_is_not_a_frame_is_refused(message: bytes) -> None:
    assert decode(Register, COMPONENT * 2) == Register(components=(Component(name="x"),) * 2)
    with pytest.raises(MalformedRecord, match="not a Register frame") as refusal:
        decode(Register, message)
    assert refusal.value.details == {"frame": "Register"}


@pytest.mark.parametrize("number", [0, 3, 5, 6, 500])
def test_a_frame_that_is_not_cold_is_refused(number: int) -> None:
    with pytest.raises(MalformedRecord, match=f"no cold frame {number}") as refusal:
        worker.decode_worker_frame(number, b"")
    assert refusal.value.details == {"number": number}


def test_the_token_does_not_get_into_a_log() -> None:
    assert "sk_secret" not in repr(Register(token="sk_secret", worker_id="w1"))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [(WorkerFrameNumber, "WorkerFrame"), (EngineFrameNumber, "EngineFrame")],
)
def test_numbers_are_those_of_the_proto(numbers: type[enum.IntEnum], message: str) -> None:
    fields = google_messages.messages()[message].fields
    assert {one.name: one.value for one in numbers} == {
        field.name.upper(): field.number for field in fields
    }


def test_reasons_are_those_of_the_proto() -> None:
    values = google_messages.enums()["RevokeReason"].values[1:]
    theirs = {value.name.removeprefix("REVOKE_REASON_"): value.number for value in values}
    assert {reason.name: reason.value for reason in RevokeReason} == theirs


def test_the_method_is_that_of_the_proto() -> None:
    (service,) = google_messages.services().values()
    (method,) = service.methods
    assert f"/{service.full_name}/{method.name}" == worker.CONNECT_METHOD
    assert (method.input_type.name, method.output_type.name) == ("WorkerFrames", "EngineFrames")
    assert method.client_streaming
    assert method.server_streaming
