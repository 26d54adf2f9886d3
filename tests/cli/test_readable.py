"""Runs, records and events in words: what a terminal shows of them, kind by kind."""

from __future__ import annotations

from typing import Any

import pytest

from engine.cli.showing import readable
from engine.model.records import RecordKind
from engine.model.views import WaitView

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOON = 1_767_268_800_000  # 2026-01-01 12:00:00 UTC


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (59_949, "59.9 s"),
        (MINUTE, "1 min"),
        (61 * SECOND, "1 min 1 s"),
        (HOUR - 1, "59 min 59 s"),
        (3 * HOUR + 4 * MINUTE + 5, "3 h 4 min"),
        (DAY, "1 d"),
        (400 * DAY + 5 * HOUR, "400 d 5 h"),
    ],
)
def test_durations(duration_ms: int, text: str) -> None:
    assert readable.duration_text(duration_ms) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1_023, "1,023 bytes"),
        (1_024, "1.0 KiB"),
        (5 * 1024**2 + 1024**2 // 2, "5.5 MiB"),
        (3 * 1024**3, "3.0 GiB"),
        (2_048 * 1024**4, "2,048.0 TiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert readable.bytes_text(size) == text


def test_moments() -> None:
    assert readable.moment_text(NOON) == "2026-01-01 12:00:00 UTC"
    assert readable.clock_text(NOON + 5) == "12:00:00.005"
    assert readable.age_text(NOON, NOON + 10) == "just now"
    assert readable.age_text(NOON, NOON + 34_900) == "34 s ago"
    assert readable.age_text(NOON, NOON + 2 * HOUR) == "2 h ago"
    assert readable.age_text(NOON + MINUTE, NOON) == "in 1 min"


def test_values_are_clipped_and_plain() -> None:
    assert readable.value_text({"a": [1, "é"]}) == '{"a":[1,"é"]}'
    assert readable.value_text("x" * 100, 10) == f'"{"x" * 8}…'
    assert readable.plain("a\x1b[31m\nb\x9b\u202e") == "a [31m b  "


@pytest.mark.parametrize(
    ("event", "name"),
    [
        ("run.queued", "RUN_ACCEPTED"),
        ("run.completed", "RUN_COMPLETED"),
        ("workflow.step.completed", "STEP_COMPLETED"),
        ("run.signal.received", "SIGNAL_RECEIVED"),
        ("run.cancel.requested", "CANCEL_REQUESTED"),
        ("odd", "RUN_ODD"),
    ],
)
def test_events_have_the_names_of_records(event: str, name: str) -> None:
    assert readable.record_name(event) == name


@pytest.mark.parametrize(
    ("kind", "fields", "text"),
    [
        ("RUN_ACCEPTED", {"component": "pay", "input": {"a": 1}}, 'pay {"a":1}'),
        ("RUN_STARTED", {"attempt": 2, "worker_id": "w"}, "attempt 2, by worker w"),
        (
            "STEP_COMPLETED",
            {"name": "pay", "key": "k", "output": 5, "started_ms": 1, "finished_ms": 8},
            "pay [k] → 5 (7 ms)",
        ),
        (
            "STEP_FAILED",
            {"name": "pay", "error": {"type": "E", "message": "no"}, "attempt": 3},
            "pay: E: no (attempt 3, for good)",
        ),
        (
            "STEP_FAILED",
            {"name": "pay", "error": {"code": "e"}, "finished_ms": 1, "retry_at_ms": 201},
            "pay: e (attempt 1, once more in 200 ms)",
        ),
        ("WAIT_CREATED", {"kind": 1, "due_ms": NOON}, "sleeps until 2026-01-01 12:00:00 UTC"),
        ("WAIT_CREATED", {"kind": "SIGNAL", "name": "go"}, "for signal 'go'"),
        (
            "WAIT_CREATED",
            {"kind": "USER", "question": "Why?", "wait_id": "3"},
            "for a person: Why? (wait 3)",
        ),
        ("WAIT_CREATED", {"kind": 4}, "for a child"),
        ("WAIT_CREATED", {"kind": 99}, "for a 99"),
        ("WAIT_RESOLVED", {"outcome": 3, "value": True}, "answered: true"),
        ("WAIT_RESOLVED", {"outcome": "TIMED_OUT"}, "timed out"),
        ("SIGNAL_RECEIVED", {"name": "go", "payload": None}, "'go': null"),
        (
            "CHILD_STARTED",
            {"component": "c", "child_run_id": "id", "mode": 2},
            "c as id, detached",
        ),
        (
            "CHILD_FINISHED",
            {"child_run_id": "id", "status": "FAILED", "error": {"code": "e", "message": "m"}},
            "id FAILED: e: m",
        ),
        ("STATE_CHANGED", {"scope": 1, "name": "n", "value": 2}, "run n = 2"),
        ("STATE_CHANGED", {"scope": "RUN", "name": "n", "deleted": True}, "run n deleted"),
        (
            "STATE_READ",
            {"scope": 5, "name": "n", "value": 2, "revision": 7, "found": True},
            "global n = 2, revision 7",
        ),
        ("STATE_READ", {"scope": 2, "name": "n"}, "session n has no value, revision 0"),
        (
            "STATE_CONFLICTED",
            {"scope": 5, "name": "n", "revision": 7, "expected_revision": 6},
            "global n is at revision 7, not 6",
        ),
        (
            "USAGE_REPORTED",
            {"model": "m", "tokens_in": 3, "cost_usd": 0.5},
            "m 3 tokens in, 0 out, $0.5000",
        ),
        (
            "RUN_RETRYING",
            {"error": {"type": "E", "message": "m"}, "retry_at_ms": NOON},
            "E: m (the next attempt begins at 2026-01-01 12:00:00 UTC)",
        ),
        ("CANCEL_REQUESTED", {"reason": "enough", "requested_by": "ann"}, "enough, by ann"),
        ("RUN_COMPLETED", {"output": "x"}, '"x"'),
        ("RUN_FAILED", {"error": {"code": "e", "message": "m"}}, "e: m"),
        ("RUN_CANCELLED", {"reason": "enough"}, "enough"),
        ("SOMETHING_NEW", {"a": 1}, '{"a":1}'),
    ],
)
def test_records(kind: str, fields: dict[str, Any], text: str) -> None:
    assert readable.record_text(kind, fields).plain == text


@pytest.mark.parametrize("kind", list(RecordKind), ids=lambda kind: kind.name)
def test_every_kind_of_record_has_words_even_without_fields(kind: RecordKind) -> None:
    assert isinstance(readable.record_text(kind.name, {}).plain, str)
    assert kind.name in readable._SAYERS


@pytest.mark.parametrize(
    ("wait", "text"),
    [
        (WaitView(wait_id="1", kind="timer", due_ms=NOON), "sleeps until 2026-01-01 12:00:00 UTC"),
        (WaitView(wait_id="1", kind="signal", name="go"), "for signal 'go'"),
        (
            WaitView(wait_id="1", kind="user", question="Tea?", options=("yes", "no")),
            "for a person: Tea? [yes, no]",
        ),
        (WaitView(wait_id="1", kind="child"), "for a child run"),
    ],
)
def test_waits(wait: WaitView, text: str) -> None:
    assert readable.wait_text(wait) == text
