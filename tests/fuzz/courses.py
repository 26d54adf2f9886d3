"""Messages made of the protocol's sources, with values from each field's edges: the courses that
the fuzzers take, each by its seed.

Half of what is said is what a peer that means well might say, since garbage alone gets no further
than the first check. The fields come from the `.proto` files, so a new one is tried as soon as it
is declared. Minutes of it with ENGINE_FUZZ_SECONDS, another course with ENGINE_TEST_SEED.
"""

from __future__ import annotations

import faulthandler
import itertools
import os
import random
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]

from engine.base.ids import RunId, child_run_id
from engine.model.payloads import PAYLOAD_TYPES
from engine.model.records import RecordKind
from engine.wire.rules import RULES
from tests.wire import google_messages

SEED: Final = int(os.environ.get("ENGINE_TEST_SEED", "1"))
LASTS_S: Final = float(os.environ.get("ENGINE_FUZZ_SECONDS", "0"))

NUMBERS: Final = (
    0, 1, 2, 3, 7, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 - 1, 2**53, 2**53 + 1,
    2**63 - 1, 2**63, 2**64 - 1,
    253_402_300_799_999, 253_402_300_800_000,
)  # fmt: skip
DOUBLES: Final = (
    0.0, -0.0, 1.0, -1.0, 1e-308, 5e-324, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
TEXTS: Final = (
    b"", b"a", b"checkout", b"\x00", b"\r\n", b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xe2\x80\xae",
    b"x" * 64, b"x" * 129, b"x" * 4_097, b"x" * 70_000, b"\xf0\x9f\x98\x80" * 300,
)  # fmt: skip
VALUES: Final = (
    b"", b"null", b"1", b'"\\ud800"', b"{}", b"[1,2]", b"NaN", b"1 2", b"{", b"\x00", b'"\xff"',
    b"[" * 5_000 + b"]" * 5_000, b"1e999", b"-", b'"' + b"x" * 100_000 + b'"',
    b'{"a":1,"a":2}', b'"\r\rdata: x"',
)  # fmt: skip
IDS: Final = (b"", b"x", b"x" * 15, b"x" * 16, b"x" * 17, b"x" * 1_000)
REPORTED: Final = [kind for kind, struct_type in PAYLOAD_TYPES.items() if struct_type in RULES]

# What is said of a field instead of what is usual; a list is a field that comes as often.
Given = Mapping[str, "int | bytes | Sequence[bytes]"]


def seeds(first: int, count_min: int = 1) -> Iterator[int]:
    """So many, and more for as long as ENGINE_FUZZ_SECONDS says."""
    until = time.monotonic() + LASTS_S
    if LASTS_S:
        faulthandler.cancel_dump_traceback_later()  # each course has a deadline of its own
    for seed in itertools.count(first):
        if seed - first >= count_min and time.monotonic() >= until:
            return
        yield seed


def varint(number: int) -> bytes:
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def tagged(number: int, wire_type: int, value: bytes) -> bytes:
    head = varint(number << 3 | wire_type)
    return head + varint(len(value)) + value if wire_type == 2 else head + value


class Course:
    """One course of values. What it says by habit is about the run and the epoch that it is at."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.positions = 0
        self.run = RunId(bytes(16))
        self.epoch = 1
        self.edges = 0.15  # how often a field has a value from its edge

    def has(self, chance: float) -> bool:
        return self.random.random() < chance

    # ---- messages ----

    def message(self, name: str, given: Given | None = None) -> bytes:
        return self._message(google_messages.messages()[name], given or {})

    def _message(self, message: Any, given: Given) -> bytes:
        parts = [
            self._field(field, said)
            for field in message.fields
            for said in self._times(given.get(field.name))
        ]
        spoils = self.edges / 4
        if self.has(spoils):
            self.random.shuffle(parts)
        made = b"".join(parts)
        if self.has(spoils):
            made = made[: self.random.randrange(len(made) + 1)]
        if self.has(spoils):
            made += self.random.choice((b"\x0b\x0c", b"\x00\x01", b"\xff" * 11, b"\xf8\x3f\x01"))
        return made

    def _times(self, said: int | bytes | Sequence[bytes] | None) -> Sequence[int | bytes | None]:
        """What a field says, as often as it is there."""
        if isinstance(said, Sequence) and not isinstance(said, bytes):
            return said
        times = self.random.choice((0, 2)) if self.has(self.edges * 2) else 1
        return [said] * times

    def _field(self, field: Any, said: int | bytes | None) -> bytes:
        if self.has(self.edges):
            wire_type, value = self._edge(field)
        elif said is None:
            wire_type, value = self._usual(field)
        else:
            wire_type, value = (0, varint(said)) if isinstance(said, int) else (2, said)
        if self.has(self.edges / 8):
            wire_type, value = self.random.choice(((0, b"\x01"), (1, b"8" * 8), (2, b"\x01")))
        return tagged(field.number, wire_type, value)

    def _usual(self, field: Any) -> tuple[int, bytes]:
        """What a peer that means well might say there."""
        match field.name:
            case "position":
                self.positions += 1
                return 0, varint(self.positions)
            case "lease_epoch":
                return 0, varint(self.epoch)
            case "run_id":
                return 2, self.run
            case "child_run_id":
                return 2, self._child(self.positions)
            case "wait_id":
                return 2, str(self.positions).encode()
            case "component":
                return 2, b"checkout"
            case "non_retryable":
                return 0, b"\x01"
        if field.message_type is not None:
            return 2, self._message(field.message_type, {})
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return 1, struct.pack("<d", self.random.choice((0.0, 0.5, 1.0)))
        if field.type == FieldDescriptor.TYPE_STRING:
            return 2, self.random.choice((b"a", b"b", b"text"))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return 2, self.random.choice((b"1", b'"x"', b"{}"))
        if field.enum_type is not None:
            return 0, varint(self.random.choice(field.enum_type.values[1:]).number)
        return 0, varint(self.random.choice((0, 1, 2)))

    def _child(self, position: int) -> RunId:
        return child_run_id(RunId(self.run.ljust(16)[:16]), position)

    def _edge(self, field: Any) -> tuple[int, bytes]:
        if field.message_type is not None:
            return 2, self.random.choice((b"", b"\xff", self.message("Error")))
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return 1, struct.pack("<d", self.random.choice(DOUBLES))
        if field.type == FieldDescriptor.TYPE_STRING:
            return 2, self.random.choice(TEXTS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            runs = (self.run, self._child(1)) if field.name.endswith("run_id") else ()
            return 2, self.random.choice((*(runs or VALUES), *IDS))
        return 0, varint(self.random.choice(NUMBERS))

    # ---- records ----

    def record(self, kind: RecordKind, given: Given | None = None) -> bytes:
        return self.message(PAYLOAD_TYPES[kind].__name__, given)

    def entry(self) -> tuple[int, bytes]:
        """A kind and a payload, as a worker might report them."""
        kind = self.random.choice([*PAYLOAD_TYPES] if self.has(0.05) else REPORTED)
        if kind in (RecordKind.RUN_COMPLETED, RecordKind.RUN_FAILED) and self.has(0.7):
            kind = RecordKind.STEP_COMPLETED  # the run shall live a little
        number = self.random.choice((0, 20, 255, 2**32 - 1)) if self.has(0.01) else int(kind)
        return number, self.record(kind)

    # ---- what a message of the stream is made of ----

    def frame(self, side: str, kind: str, given: Given | None = None) -> bytes:
        """A WorkerFrame or EngineFrame; `kind` is the name of the message in it."""
        numbers = {field.message_type.name: field.number for field in self.frames_of(side)}
        number = self.random.choice(NUMBERS[:7]) if self.has(self.edges / 8) else numbers[kind]
        return tagged(number, 2, self.message(kind, given))

    @staticmethod
    def frames_of(side: str) -> Sequence[Any]:
        fields: Sequence[Any] = google_messages.messages()[side].fields
        return fields

    def batch(self, frames: Sequence[bytes]) -> bytes:
        """A message of the stream; some are not what they should be."""
        made = b"".join(tagged(1, 2, frame) for frame in frames)
        if self.has(self.edges / 8):
            at = self.random.randrange(len(made) + 1)
            made = self.random.choice(
                (
                    made[:at],
                    made[:at] + b"\xff" + made[at + 1 :],
                    made + b"\x0a\xff\xff\xff\xff\x0f",
                )
            )
        return made
