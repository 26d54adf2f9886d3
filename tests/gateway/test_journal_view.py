"""A record as people see it: nothing unreadable, nothing lost."""

from __future__ import annotations

import msgspec
import pytest

from engine.base.ids import RunId, new_run_id, run_id_text
from engine.gateway.api.journal_view import entry_view
from engine.gateway.api.shapes import EntryAnswer
from engine.model.payloads import (
    PAYLOAD_TYPES,
    ChildStarted,
    Error,
    Payload,
    RetryPolicy,
    RunAccepted,
    RunFailed,
    StepCompleted,
    WaitCreated,
    WaitKind,
)
from engine.model.records import RecordKind
from engine.model.runs import ComponentKind
from engine.model.views import JournalEntry
from engine.wire import journal as wire


def shown(payload: Payload) -> dict[str, object]:
    entry = JournalEntry(3, wire.kind_of(payload), 1_000, wire.encode(payload))
    view = entry_view(entry)
    assert (view.offset, view.timestamp_us) == (3, 1_000)
    return as_json(view)


def as_json(view: EntryAnswer) -> dict[str, object]:
    """The payload as who asks gets it."""
    payload: dict[str, object] = msgspec.json.decode(msgspec.json.encode(view))["payload"]
    return payload


PARENT = new_run_id()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            RunAccepted(
                component="c",
                component_kind=ComponentKind.AGENT,
                input=b'{"a":[1]}',
                input_digest=b"\x01\xff",
                parent_run_id=PARENT,
                tags={"a": "b"},
                retry=RetryPolicy(attempts_max=3),
            ),
            {
                "component": "c",
                "component_kind": "AGENT",
                "input": {"a": [1]},
                "input_digest": "01ff",
                "parent_run_id": run_id_text(PARENT),
                "tags": {"a": "b"},
                "retry": {"attempts_max": 3},
            },
        ),
        (StepCompleted(position=1, output=b"null"), {"position": 1, "output": None}),
        (StepCompleted(output=b"\xff"), {"output": {"base64": "/w=="}}),
        (WaitCreated(kind=WaitKind.USER, options=("a",)), {"kind": "USER", "options": ["a"]}),
        (ChildStarted(child_run_id=b"short"), {"child_run_id": {"base64": "c2hvcnQ="}}),
        (RunFailed(error=Error(code="x")), {"error": {"code": "x"}}),
    ],
)
def test_shown(payload: Payload, expected: dict[str, object]) -> None:
    entry = JournalEntry(0, wire.kind_of(payload), 0, wire.encode(payload))
    assert as_json(entry_view(entry)) == expected


@pytest.mark.parametrize("kind", list(RecordKind))
def test_every_kind_can_be_shown(kind: RecordKind) -> None:
    assert shown(PAYLOAD_TYPES[kind]()) == {}


def test_a_record_that_cannot_be_read_is_shown_as_bytes() -> None:
    view = entry_view(JournalEntry(0, RecordKind.RUN_STARTED, 0, b"\xff"))
    assert view.payload["bytes"] == "/w=="
    assert "RUN_STARTED" in view.payload["unreadable"]


def test_run_ids_are_text() -> None:
    assert shown(RunAccepted(parent_run_id=RunId(bytes(16)))) == {
        "parent_run_id": "00000000-0000-0000-0000-000000000000"
    }
