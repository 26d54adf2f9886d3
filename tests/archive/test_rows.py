"""What the columns say of a run: every sort of record, odd payloads, text in every script."""

from __future__ import annotations

from typing import Any

import msgspec
import pyarrow as pa
import pytest

from engine.archive.files.lookup import records_of
from engine.archive.rows.columns import TableBuilder
from engine.archive.rows.schema import DATA_SETS
from engine.archive.rows.signatures import error_signature
from engine.base import limits
from engine.base.errors import MalformedRecord
from engine.base.ids import RunId, run_id_text
from engine.ext.offsets import encode_record
from engine.model import payloads
from engine.model.payloads import Payload
from engine.model.runs import ComponentKind, RunStatus
from engine.wire import journal as wire
from tests.archive.lives import NOW_US, Life, completed, encoded, failed, new_ids
from tests.histories import history

RUN = new_ids()()
DAY_US = 86_400_000_000


def tables_of(runs: list[tuple[RunId, list[bytes]]]) -> dict[str, pa.Table]:
    builder = TableBuilder(with_journal=True)
    for run, values in runs:
        builder.add(run, values)
    return builder.tables()


def run_of(life: Life) -> dict[str, Any]:
    table = tables_of([(RUN, encoded(life))])["runs"]
    assert table.schema.equals(DATA_SETS["runs"])
    row: dict[str, Any] = table.to_pylist(maps_as_pydicts="strict")[0]
    return row


def steps_of(life: Life) -> list[dict[str, Any]]:
    table = tables_of([(RUN, encoded(life))])["steps"]
    assert table.schema.equals(DATA_SETS["steps"])
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def with_records(*between: Payload, end: Payload | None = None) -> list[tuple[Payload, int]]:
    life = completed(steps=0)
    at_us = NOW_US - 40_000
    middle = [(payload, at_us + 1_000 * number) for number, payload in enumerate(between)]
    return [*life[:2], *middle, (end or payloads.RunCompleted(), NOW_US)]


def test_a_run_that_went_well() -> None:
    row = run_of(completed(tags={"team": "blue"}))
    assert row["run_id"] == run_id_text(RUN)
    expected = {
        "project_id": "shop",
        "component": "checkout",
        "kind": "workflow",
        "status": "COMPLETED",
        "attempt": 1,
        "created_ms": NOW_US // 1_000 - 50,
        "completed_ms": NOW_US // 1_000,
        "duration_ms": 50,
        "steps_completed": 3,
        "records": 6,
        "tags": {"team": "blue"},
        "input": '{"order": 1}',
        "input_bytes": 12,
        "output": '{"ok": true}',
        "error_code": None,
        "model": None,
        "usage": None,
        "score": None,
    }
    assert {name: row[name] for name in expected} == expected


def test_a_run_that_failed() -> None:
    row = run_of(failed(message="card 4711 of 'Jane' declined"))
    assert (row["status"], row["error_code"]) == ("FAILED", "card_declined")
    assert row["error_message"] == "card 4711 of 'Jane' declined"
    assert row["error_signature"] == "card # of … declined"
    assert row["output"] is None


def test_a_run_that_was_cancelled_before_it_began() -> None:
    life = [completed()[0], (payloads.RunCancelled(reason="not wanted"), NOW_US)]
    row = run_of(life)
    assert (row["status"], row["error_code"]) == ("CANCELLED", "cancelled")
    assert row["error_message"] == "not wanted"
    assert (row["started_ms"], row["duration_ms"], row["attempt"]) == (None, None, 0)
    assert steps_of(life) == []


def test_a_run_of_three_days() -> None:
    row = run_of(completed(lasting_us=3 * DAY_US))
    assert row["duration_ms"] == 3 * DAY_US // 1_000


def test_a_clock_that_went_back() -> None:
    life = completed()
    life[-1] = (life[-1][0], life[0][1] - DAY_US)
    assert run_of(life)["duration_ms"] == 0


def test_what_models_cost_by_model_and_in_all() -> None:
    usage = [
        payloads.UsageReported(position=1, model="small", tokens_in=10, tokens_out=1, cost_usd=0.5),
        payloads.UsageReported(position=2, model="large", tokens_in=20, tool_calls=3),
        payloads.UsageReported(position=3, model="small", tokens_in=5, cost_usd=0.25),
    ]
    row = run_of(with_records(*usage))
    assert (row["tokens_in"], row["tokens_out"], row["tool_calls"]) == (35, 1, 3)
    assert (row["cost_usd"], row["model"]) == (0.75, "small")
    assert [(one["model"], one["tokens_in"], one["cost_usd"]) for one in row["usage"]] == [
        ("small", 15, 0.75),
        ("large", 20, 0.0),
    ]
    kinds = [step["kind"] for step in steps_of(with_records(*usage))]
    assert kinds == ["attempt", "usage", "usage", "usage"]


@pytest.mark.parametrize(
    ("output", "score"),
    [
        (b"0.75", 0.75),
        (b'{"score": 3, "why": "x"}', 3.0),
        (b'{"score": "high"}', None),
        (b"true", None),
        (b"9" * 400, None),
        (b"1e999", None),
        (b"not json", None),
        (b"", None),
    ],
)
def test_the_score_of_a_scorer(output: bytes, score: float | None) -> None:
    life = completed(output=output)
    accepted = msgspec.structs.replace(life[0][0], component_kind=ComponentKind.SCORER)
    assert run_of([(accepted, life[0][1]), *life[1:]])["score"] == score
    assert run_of(life)["score"] is None  # a workflow's output is no score


def test_steps_and_tools() -> None:
    rows = steps_of(
        with_records(
            payloads.StepCompleted(
                position=1, name="charge", key="k", input=b"[1]", output=b"2", started_ms=5,
                finished_ms=9, attempt=1,
            ),
            payloads.StepFailed(
                position=2, name="look", tool=True, error=payloads.Error(code="x", message="no 1"),
                started_ms=10, finished_ms=11, attempt=2,
            ),
        )
    )  # fmt: skip
    attempt, step, tool = rows
    assert (attempt["kind"], attempt["status"], attempt["name"]) == (
        "attempt",
        "completed",
        "worker-1",
    )
    assert (step["kind"], step["status"], step["duration_ms"]) == ("step", "completed", 4)
    assert (step["name"], step["key"], step["input"], step["output"]) == ("charge", "k", "[1]", "2")
    assert (tool["kind"], tool["status"], tool["attempt"]) == ("tool", "failed", 2)
    assert (tool["error_code"], tool["error_signature"]) == ("x", "no #")
    assert {row["completed_ms"] for row in rows} == {NOW_US // 1_000}
    assert {row["component"] for row in rows} == {"checkout"}


def test_waits_and_children() -> None:
    child = RunId(bytes(range(16)))
    rows = steps_of(
        with_records(
            payloads.WaitCreated(position=1, wait_id="w1", name="approved", parks=True),
            payloads.WaitResolved(
                wait_id="w1", outcome=payloads.WaitOutcome.SIGNALLED, value=b'"yes"'
            ),
            payloads.RunStarted(attempt=1, lease_epoch=2, worker_id="worker-2"),
            payloads.WaitCreated(position=2, wait_id="w2"),
            payloads.ChildStarted(
                position=3, child_run_id=child, component="pack", mode=payloads.ChildMode.JOIN
            ),
            payloads.ChildFinished(position=3, child_run_id=child, status=RunStatus.FAILED),
            payloads.ChildStarted(
                position=4, child_run_id=child, component="mail", mode=payloads.ChildMode.DETACH
            ),
        )
    )
    assert [(row["kind"], row["status"], row["name"]) for row in rows] == [
        ("attempt", "waiting", "worker-1"),
        ("wait", "completed", "approved"),
        ("attempt", "completed", "worker-2"),
        ("wait", "abandoned", None),
        ("child", "failed", "pack"),
        ("child", "detached", "mail"),
    ]
    assert (rows[1]["output"], rows[1]["duration_ms"]) == ('"yes"', 1)
    assert rows[4]["child_run_id"] == run_id_text(child)


def test_attempts_say_how_they_ended() -> None:
    rows = steps_of(
        with_records(
            payloads.RunRetrying(error=payloads.Error(code="timeout", message="slow")),
            payloads.RunStarted(attempt=2, lease_epoch=2),
            payloads.RunStarted(attempt=2, lease_epoch=3),
            payloads.RunYielded(),
            payloads.RunStarted(attempt=3, lease_epoch=4),
            end=payloads.RunFailed(error=payloads.Error(code="last")),
        )
    )
    assert [(row["status"], row["attempt"], row["error_code"]) for row in rows] == [
        ("failed", 1, "timeout"),
        ("lost", 2, None),
        ("yielded", 2, None),
        ("failed", 3, "last"),
    ]


TEXTS = (
    "großes Glück",
    "支付失败",
    "الدفع",
    "платёж",
    "ไทย",
    "🎂👩‍🚀",
    "e\u0301",
    "\u202egnp",
    "a\x00b",
)


@pytest.mark.parametrize("text", TEXTS)
def test_text_in_every_script(text: str) -> None:
    row = run_of(completed(component=text, given=msgspec.json.encode(text), tags={text: text}))
    assert row["component"] == text
    assert msgspec.json.decode(row["input"]) == text
    assert row["tags"] == {text: text}


@pytest.mark.parametrize(
    ("payload", "shown"),
    [
        (b"", None),
        (b"\xff\xfe\x00", None),
        (b"\xed\xa0\x80", None),  # half a character
        (b"x" * limits.archive_text_bytes_max, "x" * limits.archive_text_bytes_max),
        (b"x" * (limits.archive_text_bytes_max + 1), None),
        (bytes(1_000_000), None),
    ],
)
def test_payloads_that_are_no_text_or_too_large(payload: bytes, shown: str | None) -> None:
    """They are whole in the data set `journal`."""
    life = completed(given=payload, output=payload)
    row = run_of(life)
    assert (row["input"], row["output"]) == (shown, shown)
    assert (row["input_bytes"], row["output_bytes"]) == (len(payload), len(payload))
    (*_, last) = records_of(tables_of([(RUN, encoded(life))])["journal"])
    assert last.payload == wire.encode(payloads.RunCompleted(output=payload, lease_epoch=1))


def test_thousands_of_steps() -> None:
    life = completed(steps=5_000)
    assert run_of(life)["steps_completed"] == 5_000
    assert len(steps_of(life)) == 5_001


def test_numbers_that_the_wire_allows_and_a_column_does_not() -> None:
    life = with_records(
        payloads.StepCompleted(position=2**64 - 1, name="far", attempt=2**32 - 1),
        payloads.UsageReported(model="m", tokens_in=2**64 - 1, tokens_out=2**63 - 1),
        payloads.UsageReported(model="m", tokens_in=2**64 - 1, tokens_out=1),
    )
    row = run_of(life)
    assert (row["tokens_in"], row["tokens_out"]) == (2**63 - 1, 2**63 - 1)
    assert row["usage"][0]["tokens_in"] == 2**63 - 1
    step = steps_of(life)[1]
    assert (step["position"], step["attempt"]) == (2**63 - 1, 2**31 - 1)


@pytest.mark.parametrize("seed", range(60))
def test_any_history_can_be_archived_and_its_journal_is_equal(seed: int) -> None:
    records = history(seed)
    values = [
        encode_record(record.kind, record.flags, offset, record.timestamp_us, record.payload)
        for offset, record in enumerate(records)
    ]
    tables = tables_of([(RUN, values)])
    read = [
        encode_record(one.kind, one.flags, one.offset, one.timestamp_us, one.payload)
        for one in records_of(pa.table(tables["journal"]))
    ]
    assert read == values
    assert tables["runs"].column("records").to_pylist() == [len(values)]


def test_what_is_no_run_is_refused() -> None:
    values = encoded(completed())
    for broken in ([], values[1:], [values[0], values[2]], [*values, values[-1]]):
        with pytest.raises(MalformedRecord):
            tables_of([(RUN, broken)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("order 12 not found", "order 99 not found"),
        ("no user 'ann'", "no user 'bob'"),
        ('field "a" is wrong', 'field "b" is wrong'),
        ("run 019b76da-a7c4-7002-89c9-2cb65dd63c86", "run 019b76da-ffff-7002-89c9-2cb65dd63c86"),
        ("at 0x7f001 in f", "at 0x7f999 in f"),
        ("took 1.5 s", "took 12.25 s"),
        ("token abc123def", "token zyx987wvu"),
    ],
)
def test_signatures_leave_out_what_differs(one: str, other: str) -> None:
    assert error_signature(one) == error_signature(other)


def test_signatures_keep_what_is_said() -> None:
    assert error_signature("card declined") == "card declined"
    assert error_signature("card declined") != error_signature("card expired")
    assert len(error_signature("word " * 1_000)) <= 200
