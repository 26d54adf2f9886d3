"""Journal payloads: what is written is read, Google's protobuf reads and writes the same, and bytes
that are no payload are a typed error."""

from __future__ import annotations

import contextlib
import enum
import functools
import typing
from pathlib import Path

import msgspec
import pytest
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import MalformedRecord
from engine.model import payloads, records, runs
from engine.model.payloads import (
    PAYLOAD_TYPES,
    Error,
    Payload,
    RetryPolicy,
    RunAccepted,
    RunCancelled,
    RunFailed,
    RunStarted,
    StepFailed,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.wire import journal
from engine.wire.generated.engine import v1
from tests.wire import google_messages
from tests.wire.strategies import mutated, of_newer_version, structs

ENUMS: list[type[enum.IntEnum]] = [
    records.RecordKind,
    runs.RunStatus,
    runs.ComponentKind,
    payloads.RetryKind,
    payloads.WaitKind,
    payloads.WaitOutcome,
    payloads.ChildMode,
    payloads.StateScope,
]
NUMBERS_GIVEN = Path(__file__).with_name("numbers_given.txt")

every_kind = pytest.mark.parametrize("kind", RecordKind, ids=lambda kind: kind.name)


@functools.cache
def payloads_of(kind: RecordKind) -> st.SearchStrategy[Payload]:
    return structs(google_messages.messages()[PAYLOAD_TYPES[kind].__name__])


@every_kind
@given(data=st.data())
def test_what_is_written_is_read(kind: RecordKind, data: st.DataObject) -> None:
    payload = data.draw(payloads_of(kind))
    assert journal.kind_of(payload) is kind
    assert journal.decode(kind, journal.encode(payload)) == payload


@every_kind
@given(data=st.data())
def test_what_is_written_is_what_betterproto2_writes(kind: RecordKind, data: st.DataObject) -> None:
    written = journal.encode(data.draw(payloads_of(kind)))
    message_type = getattr(v1, PAYLOAD_TYPES[kind].__name__)
    assert bytes(message_type.parse(written)) == written


@every_kind
@given(data=st.data())
def test_google_reads_what_we_write_and_we_what_google_writes(
    kind: RecordKind, data: st.DataObject
) -> None:
    payload = data.draw(payloads_of(kind))
    theirs = google_messages.parse(type(payload).__name__, journal.encode(payload))
    assert google_messages.plain(theirs) == google_messages.plain_struct(payload)
    assert journal.decode(kind, google_messages.of_struct(payload).SerializeToString()) == payload


@every_kind
@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_as_google_reads_them(
    kind: RecordKind, data: st.DataObject
) -> None:
    damaged = mutated(journal.encode(data.draw(payloads_of(kind))), data)
    name = PAYLOAD_TYPES[kind].__name__
    try:
        payload = journal.decode(kind, damaged)
    except MalformedRecord:
        return
    try:
        theirs = google_messages.parse(name, damaged)
    except DecodeError:
        pytest.fail(f"read {payload} where google refuses")
    assert google_messages.plain(theirs) == google_messages.plain_struct(payload)


@every_kind
@given(data=st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_typed_error(kind: RecordKind, data: bytes) -> None:
    with contextlib.suppress(MalformedRecord):
        assert type(journal.decode(kind, data)) is PAYLOAD_TYPES[kind]


@every_kind
def test_no_bytes_are_the_defaults(kind: RecordKind) -> None:
    defaults = PAYLOAD_TYPES[kind]()
    assert journal.decode(kind, b"") == defaults
    assert journal.encode(defaults) == b""


@every_kind
def test_fields_of_a_newer_version_are_skipped(kind: RecordKind) -> None:
    assert journal.decode(kind, of_newer_version()) == PAYLOAD_TYPES[kind]()


def test_fields_of_a_newer_version_are_skipped_inside_a_message() -> None:
    inside = b"\x0a\x04oops" + of_newer_version()
    data = b"\x0a" + bytes([len(inside)]) + inside
    assert journal.decode(RecordKind.RUN_FAILED, data) == RunFailed(error=Error(code="oops"))


@every_kind
def test_enum_numbers_of_a_newer_version_stay_numbers(kind: RecordKind) -> None:
    for field in msgspec.structs.fields(PAYLOAD_TYPES[kind]):
        if any(member in ENUMS for member in typing.get_args(field.type)):
            payload = PAYLOAD_TYPES[kind](**{field.name: 1000})
            assert journal.decode(kind, journal.encode(payload)) == payload


def test_enum_numbers_of_this_version_are_members() -> None:
    data = journal.encode(WaitCreated(kind=WaitKind.USER))
    waited = journal.decode(RecordKind.WAIT_CREATED, data)
    assert isinstance(waited, WaitCreated)
    assert waited.kind is WaitKind.USER


def test_an_empty_message_is_not_a_missing_one() -> None:
    for payload in (RunFailed(error=Error()), RunFailed()):
        assert journal.decode(RecordKind.RUN_FAILED, journal.encode(payload)) == payload


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(RunStarted(lease_epoch=-1), id="negative"),
        pytest.param(RunStarted(attempt=2**32), id="over uint32"),
        pytest.param(RunStarted(lease_epoch=2**64), id="over uint64"),
        pytest.param(WaitCreated(kind=2**31), id="over an enum"),
        pytest.param(RunCancelled(reason="\ud800"), id="half a character"),
        pytest.param(RunAccepted(retry=RetryPolicy(attempts_max=-1)), id="negative, inside"),
        pytest.param(RunAccepted(tags={"tag": "\udfff"}), id="half a character, in a map"),
    ],
)
def test_what_the_wire_cannot_hold_is_not_written(payload: Payload) -> None:
    with pytest.raises(MalformedRecord, match=journal.kind_of(payload).name):
        journal.encode(payload)


STEP_FAILED_ERROR = b"\x2a\x03\x0a\x01x"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x12\x05abc", id="cut short"),
        pytest.param(b"\x10\x05", id="a number for a name"),
        pytest.param(b"\x0a\x01a", id="text for a position"),
        pytest.param(b"\x12\x01\xff", id="not UTF-8"),
        pytest.param(b"\x2a\x03\x0a\x05x", id="cut short, inside"),
        pytest.param(b"\x2a\x03\x0a\x01\xff", id="not UTF-8, inside"),
        pytest.param(STEP_FAILED_ERROR * 2, id="a message twice"),
        pytest.param(b"\x40\x80\x80\x80\x80\x10", id="an attempt of 33 bits"),
        pytest.param(b"\x13\x14", id="a group"),
    ],
)
def test_what_is_not_a_payload_is_refused(data: bytes) -> None:
    assert journal.decode(RecordKind.STEP_FAILED, STEP_FAILED_ERROR) == StepFailed(
        error=Error(code="x")
    )
    with pytest.raises(MalformedRecord, match="STEP_FAILED") as refusal:
        journal.decode(RecordKind.STEP_FAILED, data)
    assert refusal.value.details == {"kind": "STEP_FAILED"}


@pytest.mark.parametrize("kind", [0, 20, 255])
def test_a_kind_of_a_newer_version_is_refused(kind: int) -> None:
    with pytest.raises(MalformedRecord, match=f"kind {kind}"):
        journal.decode(kind, b"")


@pytest.mark.parametrize("enum_type", ENUMS, ids=lambda enum_type: enum_type.__name__)
def test_enums_are_those_of_the_proto(enum_type: type[enum.IntEnum]) -> None:
    proto = google_messages.enums()[enum_type.__name__]
    prefix = proto.values_by_number[0].name.removesuffix("UNSPECIFIED")
    expected = {value.name.removeprefix(prefix): value.number for value in proto.values[1:]}
    assert {member.name: member.value for member in enum_type} == expected


def test_no_number_that_was_given_is_taken_back() -> None:
    """numbers_given.txt only grows: a new field or enum value is added to it, none is removed."""
    now = {
        f"{message.name} {field.number} {field.name}"
        for message in google_messages.messages().values()
        for field in message.fields
    } | {
        f"{proto.name} {value.number} {value.name}"
        for proto in google_messages.enums().values()
        for value in proto.values
    }
    given_once = set(NUMBERS_GIVEN.read_text().splitlines())
    assert now == given_once, f"differs from {NUMBERS_GIVEN.name}: {sorted(now ^ given_once)}"
