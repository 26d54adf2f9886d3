"""Hot frames of the worker stream, compiled code and twin alike: what is built is what betterproto2
builds, what is scanned is what Google's protobuf reads, and everything else is refused."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType
from typing import Any

import betterproto2
import pytest
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from engine.base import limits
from engine.base.errors import LimitExceeded, MalformedRecord
from engine.ext import frames as compiled
from engine.model.records import RecordKind
from engine.wire.generated.engine import v1
from tests.checked_build import FOLDER, ROOT
from tests.twins import frames as twin
from tests.wire import frame_damage, google_messages
from tests.wire.strategies import mutated, of_newer_version

RUN = bytes(range(16))

every_implementation = pytest.mark.parametrize("frames", [compiled, twin], ids=["compiled", "twin"])

RUNS = st.binary(min_size=16, max_size=16)
U64 = st.integers(0, 2**64 - 1) | st.integers(0, 300)
U32 = st.integers(0, 2**32 - 1) | st.integers(0, 300)
ENUM = st.integers(0, 2**31 - 1) | st.sampled_from(list(RecordKind))
DATA = st.binary(max_size=300)
TEXT = st.text(max_size=140)
NEW_ENTRIES = st.lists(st.tuples(U32, DATA), max_size=4)
ENTRIES = st.lists(st.tuples(U32, DATA, U64, U64), max_size=4)

# What each builder is called with, under the names of the message's fields.
ARGUMENTS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "report": {"run_id": RUNS, "lease_epoch": U64, "sequence": U64, "entries": NEW_ENTRIES},
    "emit": {"run_id": RUNS, "lease_epoch": U64, "event": TEXT, "data": DATA},
    "dispatch": {
        "run_id": RUNS,
        "lease_epoch": U64,
        "attempt": U32,
        "component": TEXT,
        "kind": ENUM,
        "journal": ENTRIES,
        "more": st.booleans(),
    },
    "ack": {"run_id": RUNS, "lease_epoch": U64, "sequence": U64},
    "deliver": {"run_id": RUNS, "lease_epoch": U64, "entries": ENTRIES},
}
OF_WORKER = ("report", "emit")

every_hot_frame = pytest.mark.parametrize("name", ARGUMENTS)


def drawn(name: str, data: st.DataObject) -> dict[str, Any]:
    return {field: data.draw(values, field) for field, values in ARGUMENTS[name].items()}


def built(frames: ModuleType, name: str, values: dict[str, Any]) -> bytes:
    frame: bytes = getattr(frames, f"build_{name}")(*values.values())
    return frame


def scan_of(frames: ModuleType, name: str) -> Any:
    return frames.scan_worker_frames if name in OF_WORKER else frames.scan_engine_frames


def of_betterproto2(name: str, values: dict[str, Any]) -> betterproto2.Message:
    """The same frame as a generated message."""
    fields = dict(values)
    for entries in {"entries", "journal"} & fields.keys():
        names = ("kind", "payload", "offset", "timestamp_us")
        fields[entries] = [
            v1.Entry(**dict(zip(names, entry, strict=False))) for entry in fields[entries]
        ]
    outer = v1.WorkerFrame if name in OF_WORKER else v1.EngineFrame
    return outer(**{name: getattr(v1, name.capitalize())(**fields)})


def packed(frame: bytes) -> bytes:
    return twin.pack_frames([frame])


def delimited(number: int, data: bytes) -> bytes:
    return (
        betterproto2.encode_varint(number << 3 | 2) + betterproto2.encode_varint(len(data)) + data
    )


@every_implementation
@every_hot_frame
@given(data=st.data())
def test_what_is_built_is_what_betterproto2_builds(
    frames: ModuleType, name: str, data: st.DataObject
) -> None:
    values = drawn(name, data)
    assert built(frames, name, values) == bytes(of_betterproto2(name, values))


@every_implementation
@every_hot_frame
@given(data=st.data())
def test_what_betterproto2_builds_is_scanned(
    frames: ModuleType, name: str, data: st.DataObject
) -> None:
    values = drawn(name, data)
    message = packed(bytes(of_betterproto2(name, values)))
    assert scan_of(frames, name)(message) == [(name, *values.values())]


@every_implementation
@given(frame_bytes=st.lists(DATA, max_size=5))
def test_frames_are_packed_as_betterproto2_packs_them(
    frames: ModuleType, frame_bytes: list[bytes]
) -> None:
    """For a frame of any length; an unknown member stands for whatever it holds."""
    sent = [delimited(77, data) for data in frame_bytes]
    message = bytes(v1.WorkerFrames(frames=[v1.WorkerFrame.parse(frame) for frame in sent]))
    assert frames.pack_frames(sent) == message
    assert frames.scan_worker_frames(message) == [("cold", 77, data) for data in frame_bytes]
    assert frames.scan_engine_frames(message) == [("cold", 77, data) for data in frame_bytes]


@every_implementation
def test_frames_come_out_in_their_order(frames: ModuleType) -> None:
    heartbeat = bytes(v1.WorkerFrame(heartbeat=v1.Heartbeat(sent_ms=1_767_225_600_000)))
    drain = bytes(v1.WorkerFrame(drain=v1.Drain(reason="deploy")))
    report = frames.build_report(RUN, 7, 1, [(RecordKind.STEP_COMPLETED, b"\x08\x01")])
    emit = frames.build_emit(RUN, 7, "output.delta", b'"a"')
    assert frames.scan_worker_frames(frames.pack_frames([report, heartbeat, drain, emit])) == [
        ("report", RUN, 7, 1, [(3, b"\x08\x01")]),
        ("heartbeat", 1_767_225_600_000),
        ("cold", 4, b"\x0a\x06deploy"),
        ("emit", RUN, 7, "output.delta", b'"a"'),
    ]
    assert frames.scan_worker_frames(b"") == frames.scan_engine_frames(b"") == []
    assert frames.pack_frames([]) == b""


@every_implementation
def test_what_a_frame_does_not_say_is_the_default(frames: ModuleType) -> None:
    run = delimited(1, RUN)
    assert frames.scan_worker_frames(
        frames.pack_frames([delimited(2, b""), delimited(3, run), delimited(5, run)])
    ) == [("heartbeat", 0), ("report", RUN, 0, 0, []), ("emit", RUN, 0, "", b"")]
    assert frames.scan_engine_frames(
        frames.pack_frames([delimited(number, run) for number in (2, 3, 4)])
    ) == [("dispatch", RUN, 0, 0, "", 0, [], False), ("ack", RUN, 0, 0), ("deliver", RUN, 0, [])]


@every_implementation
def test_fields_of_a_newer_version_are_skipped_everywhere(frames: ModuleType) -> None:
    newer = of_newer_version()
    entry = newer + b"\x08\x03" + newer + b"\x12\x01x" + newer
    run = newer + delimited(1, RUN) + newer
    for scan, number, expected in [
        (frames.scan_worker_frames, 2, ("heartbeat", 0)),
        (frames.scan_worker_frames, 5, ("emit", RUN, 0, "", b"")),
        (frames.scan_engine_frames, 3, ("ack", RUN, 0, 0)),
    ]:
        inside = newer + delimited(number, run if number != 2 else newer) + newer
        assert scan(newer + delimited(1, inside) + newer) == [expected]
    report = delimited(3, run + delimited(4, entry))
    assert frames.scan_worker_frames(packed(report)) == [("report", RUN, 0, 0, [(3, b"x")])]
    dispatch = delimited(2, run + delimited(6, entry))
    assert frames.scan_engine_frames(packed(dispatch)) == [
        ("dispatch", RUN, 0, 0, "", 0, [(3, b"x", 0, 0)], False)
    ]
    deliver = delimited(4, run + delimited(3, entry))
    assert frames.scan_engine_frames(packed(deliver)) == [("deliver", RUN, 0, [(3, b"x", 0, 0)])]


@every_implementation
def test_a_frame_of_a_newer_version_is_handed_on(frames: ModuleType) -> None:
    for scan, first in [(frames.scan_worker_frames, 6), (frames.scan_engine_frames, 8)]:
        for number in (first, 15, 16, 2**29 - 1):
            assert scan(packed(delimited(number, b"abc"))) == [("cold", number, b"abc")]
        both = delimited(first, b"old") + b"\x78\x01" + delimited(16, b"new")
        assert scan(packed(both)) == [("cold", 16, b"new")]
        assert scan(packed(b"\x78\x01")) == [("cold", 0, b"")]
        assert scan(packed(b"")) == [("cold", 0, b"")]


@every_implementation
def test_cold_frames_are_handed_on_unread(frames: ModuleType) -> None:
    for scan, numbers in [
        (frames.scan_worker_frames, (1, 4)),
        (frames.scan_engine_frames, (1, 5, 6, 7)),
    ]:
        for number in numbers:
            assert scan(packed(delimited(number, b"\xff"))) == [("cold", number, b"\xff")]


@every_implementation
def test_of_a_field_that_comes_twice_the_last_counts(frames: ModuleType) -> None:
    other = bytes(16)
    twice = delimited(1, RUN) + b"\x10\x01\x18\x01" + delimited(1, other) + b"\x10\x02"
    assert frames.scan_engine_frames(packed(delimited(3, twice))) == [("ack", other, 2, 1)]


RUN_FIELD = delimited(1, RUN)
OVER_U64 = b"\xff" * 9 + b"\x02"


@every_implementation
@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("report", b"\x0a\x05abc", id="a frame cut short"),
        pytest.param("report", b"\x08\x01", id="a number for a frame"),
        pytest.param("report", b"\x13\x14", id="a group"),
        pytest.param("report", packed(b"\x1a\x05abc"), id="a member cut short"),
        pytest.param("report", packed(b"\x18\x01"), id="a number for a member"),
        pytest.param("report", packed(b"\x08\x01"), id="a number for a cold member"),
        pytest.param("ack", packed(b"\x38\x01"), id="a number for a cold member of the engine"),
        pytest.param("report", packed(delimited(3, RUN_FIELD) * 2), id="a member twice"),
        pytest.param("report", packed(b"\x12\x00\x22\x00"), id="two members"),
        pytest.param("report", packed(delimited(3, b"")), id="no run"),
        pytest.param("report", packed(delimited(3, b"\x0a\x00")), id="an empty run id"),
        pytest.param("report", packed(delimited(3, b"\x0a\x0f" + RUN[1:])), id="15 bytes of run"),
        pytest.param("report", packed(delimited(3, delimited(1, RUN + RUN))), id="32 bytes of run"),
        pytest.param("report", packed(delimited(3, b"\x08\x01" + RUN_FIELD)), id="a number for it"),
        pytest.param("report", packed(delimited(3, RUN_FIELD + b"\x12\x00")), id="bytes for epoch"),
        pytest.param(
            "report", packed(delimited(3, RUN_FIELD + b"\x18" + OVER_U64)), id="over uint64"
        ),
        pytest.param(
            "report", packed(delimited(3, RUN_FIELD + b"\x20\x01")), id="a number for an entry"
        ),
        pytest.param(
            "report",
            packed(delimited(3, RUN_FIELD + b"\x22\x02\x12\x05")),
            id="a payload cut short",
        ),
        pytest.param(
            "report",
            packed(delimited(3, RUN_FIELD + b"\x22\x02\x10\x05")),
            id="no bytes in payload",
        ),
        pytest.param(
            "report",
            packed(delimited(3, RUN_FIELD + b"\x22\x06\x08\x80\x80\x80\x80\x10")),
            id="a kind of 33 bits",
        ),
        pytest.param(
            "report",
            packed(delimited(3, RUN_FIELD + b"\x22\x02\x1a\x00")),
            id="bytes for an offset",
        ),
        pytest.param(
            "report", packed(delimited(3, RUN_FIELD + b"\x22\x02\x22\x00")), id="bytes for a time"
        ),
        pytest.param("emit", packed(delimited(5, RUN_FIELD + b"\x1a\x01\xff")), id="not UTF-8"),
        pytest.param("emit", packed(delimited(5, RUN_FIELD + b"\x18\x01")), id="a number for text"),
        pytest.param(
            "emit", packed(delimited(5, RUN_FIELD + b"\x20\x01")), id="a number for the data"
        ),
        pytest.param("emit", packed(delimited(5, b"\x1a\x01x")), id="no run to emit for"),
        pytest.param("emit", packed(delimited(2, b"\x0a\x00")), id="text for a heartbeat's time"),
        pytest.param(
            "dispatch",
            packed(delimited(2, RUN_FIELD + b"\x18\x80\x80\x80\x80\x10")),
            id="an attempt of 33 bits",
        ),
        pytest.param(
            "dispatch",
            packed(delimited(2, RUN_FIELD + b"\x28\x80\x80\x80\x80\x08")),
            id="a component kind of 32 bits",
        ),
        pytest.param(
            "dispatch", packed(delimited(2, RUN_FIELD + b"\x3a\x00")), id="bytes for more"
        ),
        pytest.param("dispatch", packed(delimited(2, b"\x18\x01")), id="no run to dispatch"),
        pytest.param("ack", packed(delimited(3, b"\x18\x01")), id="no run to acknowledge"),
        pytest.param("deliver", packed(delimited(4, b"\x10\x01")), id="no run to deliver to"),
    ],
)
def test_what_is_not_a_message_is_refused(frames: ModuleType, name: str, message: bytes) -> None:
    """And with it what was in front: a message is read as a whole or not at all."""
    with pytest.raises(MalformedRecord, match="cannot be read"):
        scan_of(frames, name)(packed(delimited(2, RUN_FIELD * (name not in OF_WORKER))) + message)


def said_by_google(frame: Message) -> tuple[Any, ...]:
    """A parsed hot frame in the form of a scan."""
    name = frame.WhichOneof("frame")
    said = [name]
    for field, value in google_messages.plain(getattr(frame, name)).items():
        if field in ("entries", "journal"):
            width = 2 if name == "report" else 4
            value = [tuple(entry.values())[:width] for entry in value]
        said.append(value)
    return tuple(said)


@every_hot_frame
@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_as_google_reads_them(
    name: str, data: st.DataObject
) -> None:
    values = drawn(name, data)
    damaged = mutated(packed(built(compiled, name, values)), data)
    found = frame_damage.outcome(scan_of(compiled, name), damaged)
    assert found == frame_damage.outcome(scan_of(twin, name), damaged)
    if found is None or any(frame[0] == "cold" for frame in found):
        return
    try:
        theirs = google_messages.parse(
            "WorkerFrames" if name in OF_WORKER else "EngineFrames", damaged
        )
    except DecodeError:
        pytest.fail(f"read {found} where google refuses")
    assert found == [said_by_google(frame) for frame in theirs.frames]


@given(message=st.binary(max_size=60))
def test_any_bytes_get_the_verdict_of_the_twin(message: bytes) -> None:
    for name in ("scan_worker_frames", "scan_engine_frames"):
        found = frame_damage.outcome(getattr(compiled, name), message)
        assert found == frame_damage.outcome(getattr(twin, name), message)


def test_damaged_messages_get_the_verdict_of_the_twin() -> None:
    read, refused = frame_damage.scan_damaged(seed=1, rounds=2_000)
    assert read > 100
    assert refused > 100


def test_damaged_messages_trip_no_check(checked_environment: dict[str, str]) -> None:
    """The same under the build with bounds, overflow and None checks, where a wrong step of the
    scan is an exception that is not a MalformedRecord."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.wire.frame_damage", "2", "2000"],
        cwd=ROOT,
        env=checked_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    read, refused, path = result.stdout.split()
    assert int(read) > 100
    assert int(refused) > 100
    assert path.startswith(str(FOLDER))


@every_implementation
def test_the_number_of_frames_in_a_message_is_bounded(frames: ModuleType) -> None:
    allowed = [b""] * limits.stream_message_frames_max
    assert len(frames.scan_worker_frames(frames.pack_frames(allowed))) == len(allowed)
    with pytest.raises(LimitExceeded):
        frames.pack_frames([*allowed, b""])
    with pytest.raises(LimitExceeded):
        frames.scan_engine_frames(b"\x0a\x00" * (len(allowed) + 1))


@every_implementation
def test_a_report_is_one_transition(frames: ModuleType) -> None:
    allowed = [(0, b"")] * limits.records_per_transition_max
    report = frames.build_report(RUN, 1, 1, allowed)
    assert frames.scan_worker_frames(packed(report)) == [("report", RUN, 1, 1, allowed)]
    with pytest.raises(LimitExceeded):
        frames.build_report(RUN, 1, 1, [*allowed, (0, b"")])
    too_long = delimited(3, RUN_FIELD + b"\x22\x00" * (len(allowed) + 1))
    with pytest.raises(LimitExceeded):
        frames.scan_worker_frames(packed(too_long))


@every_implementation
def test_a_page_of_a_journal_may_be_longer(frames: ModuleType) -> None:
    """The engine cuts its pages by size, and a transition may follow on another."""
    page = [(0, b"", 0, 0)] * (limits.records_per_transition_max + 1)
    dispatch = frames.build_dispatch(RUN, 1, 1, "c", 2, page, True)
    deliver = frames.build_deliver(RUN, 1, page)
    assert frames.scan_engine_frames(frames.pack_frames([dispatch, deliver])) == [
        ("dispatch", RUN, 1, 1, "c", 2, page, True),
        ("deliver", RUN, 1, page),
    ]


@every_implementation
def test_half_a_character_is_not_sent(frames: ModuleType) -> None:
    with pytest.raises(MalformedRecord):
        frames.build_emit(RUN, 1, "output.\ud800", b"")
    with pytest.raises(MalformedRecord):
        frames.build_dispatch(RUN, 1, 1, "\udfff", 1, [], False)


PROGRAMMER_ERRORS = (AssertionError, OverflowError, TypeError, ValueError)


@every_implementation
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("report", (RUN[1:], 1, 1, []), id="a short run id"),
        pytest.param("report", (RUN, -1, 1, []), id="a negative epoch"),
        pytest.param("report", (RUN, 1, 2**64, []), id="a sequence of 65 bits"),
        pytest.param("report", (RUN, 1, 1, [(1, b"", 1)]), id="an entry of three"),
        pytest.param("report", (RUN, 1, 1, [(2**32, b"")]), id="a kind of 33 bits"),
        pytest.param("report", (RUN, 1, 1, [(-1, b"")]), id="a negative kind"),
        pytest.param("deliver", (RUN, 1, [(1, b"")]), id="an entry without an offset"),
        pytest.param("deliver", (RUN, 1, [(1, b"", -1, 0)]), id="a negative offset"),
        pytest.param("deliver", (RUN, 1, [(1, b"", 0, 2**64)]), id="a time of 65 bits"),
        pytest.param("dispatch", (RUN, 1, 1, "c", 2**31, [], False), id="a component kind over"),
    ],
)
def test_what_a_programmer_gets_wrong_stops(
    frames: ModuleType, name: str, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(PROGRAMMER_ERRORS):
        getattr(frames, f"build_{name}")(*arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("report", (None, 1, 1, []), id="no run id"),
        pytest.param("report", (RUN, 1, 1, None), id="no entries"),
        pytest.param("report", (RUN, 1, 1, [None]), id="no entry"),
        pytest.param("report", (RUN, 1, 1, [[1, b""]]), id="an entry that is a list"),
        pytest.param("report", (RUN, 1, 1, [(1, None)]), id="no payload"),
        pytest.param("report", (RUN, 1, 1, [(1, bytearray(1))]), id="a payload that can change"),
        pytest.param("dispatch", (RUN, 1, 1, None, 1, [], False), id="no component"),
        pytest.param("emit", (RUN, 1, "log", None), id="no data"),
    ],
)
def test_the_compiled_code_takes_no_other_types(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError):
        getattr(compiled, f"build_{name}")(*arguments)


def test_no_frame_is_not_packed() -> None:
    for wrong in (None, "text", 7):
        with pytest.raises(TypeError):
            compiled.pack_frames([b"", wrong])  # type: ignore[list-item]


def test_entries_that_change_while_they_are_written_stop() -> None:
    """The second pass finds other entries than the first one measured, and writes past nothing."""

    class Meddling:
        def __init__(self, entries: list[Any], becomes: list[Any]) -> None:
            self.entries, self.becomes = entries, becomes

        def __int__(self) -> int:
            self.entries[:] = self.becomes
            return 3

        __index__ = __int__

    for becomes in ([], [(3, b"")], [(3, b"y" * 100_000)] * 3):
        entries: list[Any] = []
        entries.append((Meddling(entries, becomes), b"x" * 50))
        with pytest.raises(AssertionError, match="changed meanwhile"):
            compiled.build_report(RUN, 1, 1, entries)
