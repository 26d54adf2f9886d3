"""A run's records as rows of the data sets: what the summary, each step and each record say.

Takes the records as they lie on the disk and decodes only what a column needs; that is done for
every run that ends, so it is written for speed: a row is a list in the order of `schema.py`. Knows
no Arrow, no file and no store. A run that cannot be folded raises; it is not archived.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from engine.archive.rows.signatures import error_signature
from engine.base import limits
from engine.base.errors import MalformedRecord
from engine.base.ids import RUN_ID_BYTES, RunId, run_id_text
from engine.ext.fields import read_fields
from engine.ext.replay import RunFold
from engine.model.payloads import ChildMode, WaitOutcome
from engine.model.records import RECORD_HEADER, RECORD_HEADER_BYTES, RecordKind
from engine.model.runs import ComponentKind, RunStatus, RunSummary

Row = list[Any]

# Sorts of fields, as engine.ext.fields has them.
_N, _T, _D, _R, _F, _L = 1, 2, 3, 4, 5, 6
_ACCEPTED: Final = bytes((0, 0, 0, 0, 0, _D, 0, 0, _T, _T, 0, 0, 0, 0, _L, 0, 0, 0, _T))
_TAG: Final = bytes((0, _T, _T))
_STARTED: Final = bytes((0, _N, 0, _T))
_STEP: Final = bytes((0, _N, _T, _T, _D, _D, _N, _N, _N, 0, _F))
_WAIT: Final = bytes((0, _N, _T, 0, _T, 0, _T, 0, 0, 0, 0, 0, _F))
_RESOLVED: Final = bytes((0, _N, _T, _N, _D, 0, _D))
_CHILD: Final = bytes((0, _N, _D, _T, _N, _D))
_CHILD_ENDED: Final = bytes((0, _N, _D, _N, _D, _D))
_USAGE: Final = bytes((0, _N, _T, _N, _N, _R, _N))
_RETRYING: Final = bytes((0, 0, _D))
_FAILED: Final = bytes((0, _D))
_OUTCOME: Final = bytes((0, _D))
_REASON: Final = bytes((0, _T))
_ERROR: Final = bytes((0, _T, _T))

_STATUS_NAMES: Final = {status.value: status.name for status in RunStatus}
# As the public API says them.
_KIND_NAMES: Final = {kind.value: kind.name.lower() for kind in ComponentKind}
_OUTCOMES: Final = {
    WaitOutcome.FIRED: "completed",
    WaitOutcome.SIGNALLED: "completed",
    WaitOutcome.ANSWERED: "completed",
    WaitOutcome.TIMED_OUT: "timed_out",
    WaitOutcome.CHILD_FINISHED: "completed",
}

# Where in a step's row the things are that a later record fills in.
_STATUS, _FINISHED, _DURATION, _OUTPUT, _ERROR_CODE = 5, 8, 9, 11, 12


class RunRows(msgspec.Struct):
    """The rows of one run."""

    run: Row
    steps: list[Row]


def rows_of(run: RunId, values: Sequence[bytes]) -> RunRows:
    """Of a run whose records, from the first on, are `values`."""
    fold = RunFold()
    fold.feed_all(values)
    summary = fold.summary()
    if not values or values[0][1] != RecordKind.RUN_ACCEPTED:
        raise MalformedRecord(f"run {run.hex()} does not begin with its acceptance")
    reading = _Reading(run_id_text(run))
    for value in values:
        read = _READERS.get(value[1])
        if read is not None:
            read(reading, value)
    return RunRows(_run_row(reading, summary, values), _step_rows(reading, summary))


class _Reading:
    """What is known of a run while its records are gone through."""

    __slots__ = ("attempt", "children", "output", "reason", "run", "steps", "usage", "waits")

    def __init__(self, run: str) -> None:
        self.run = run
        self.steps: list[Row] = []
        self.waits: dict[str, Row] = {}
        self.children: dict[int, Row] = {}
        self.attempt: Row | None = None
        self.usage: dict[str, dict[str, Any]] | None = None
        self.output = b""
        self.reason = ""


def _related(run: bytes) -> str | None:
    """A parent or a child, if there is one."""
    return run_id_text(RunId(run)) if len(run) == RUN_ID_BYTES else None


def _text(data: bytes) -> str | None:
    if not data or len(data) > limits.archive_text_bytes_max:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _moment_ms(value: bytes) -> int:
    return int(RECORD_HEADER.unpack_from(value)[5]) // 1_000


def _between(from_ms: int | None, to_ms: int | None) -> int | None:
    return max(0, to_ms - from_ms) if from_ms and to_ms else None


def _error(data: bytes) -> tuple[str | None, str | None, str | None]:
    """Code, message and signature of an Error."""
    if not data:
        return None, None, None
    _, code, message = read_fields(data, 0, _ERROR)
    return code or None, message or None, error_signature(message) if message else None


# ---- one function for each kind of record ----


def _started(reading: _Reading, value: bytes) -> None:
    _, attempt, _, worker = read_fields(value, RECORD_HEADER_BYTES, _STARTED)
    at_ms = _moment_ms(value)
    _end_attempt(reading, at_ms, "lost")
    row = [reading.run, None, "attempt", worker or None, None, "running", attempt, at_ms]
    row += [None] * 13
    reading.attempt = row
    reading.steps.append(row)


def _end_attempt(reading: _Reading, at_ms: int, status: str, error: bytes = b"") -> None:
    row = reading.attempt
    if row is None:
        return
    row[_STATUS], row[_FINISHED], row[_DURATION] = status, at_ms, _between(row[7], at_ms)
    if error:
        row[_ERROR_CODE : _ERROR_CODE + 3] = _error(error)
    reading.attempt = None


def _step_completed(reading: _Reading, value: bytes) -> None:
    fields = read_fields(value, RECORD_HEADER_BYTES, _STEP)
    _, position, name, key, given, output, started, finished, attempt, _, tool = fields
    reading.steps.append(
        [
            reading.run,
            position,
            "tool" if tool else "step",
            name,
            key or None,
            "completed",
            attempt,
            started or None,
            finished or None,
            _between(started, finished),
            _text(given),
            _text(output),
            *_NINE_NONES,
        ]
    )


def _step_failed(reading: _Reading, value: bytes) -> None:
    fields = read_fields(value, RECORD_HEADER_BYTES, _STEP)
    _, position, name, key, given, error, started, finished, attempt, _, tool = fields
    reading.steps.append(
        [
            reading.run,
            position,
            "tool" if tool else "step",
            name,
            key or None,
            "failed",
            attempt,
            started or None,
            finished or None,
            _between(started, finished),
            _text(given),
            None,
            *_error(error),
            *_SIX_NONES,
        ]
    )


def _wait_created(reading: _Reading, value: bytes) -> None:
    fields = read_fields(value, RECORD_HEADER_BYTES, _WAIT)
    at_ms = _moment_ms(value)
    row = [reading.run, fields[1], "wait", fields[4] or None, fields[2] or None, "waiting"]
    row += [None, at_ms, None, None, fields[6] or None, None, *_NINE_NONES]
    reading.waits[fields[2]] = row
    reading.steps.append(row)
    if fields[12]:
        _end_attempt(reading, at_ms, "waiting")


def _wait_resolved(reading: _Reading, value: bytes) -> None:
    fields = read_fields(value, RECORD_HEADER_BYTES, _RESOLVED)
    row = reading.waits.pop(fields[2], None)
    if row is not None:
        status = _OUTCOMES.get(fields[3], "completed")
        _finish(row, _moment_ms(value), status, fields[4], fields[6])


def _child_started(reading: _Reading, value: bytes) -> None:
    _, position, child, component, mode, given = read_fields(value, RECORD_HEADER_BYTES, _CHILD)
    row = [reading.run, position, "child", component or None, None, "started", None]
    row += [_moment_ms(value), None, None, _text(given), None, *_NINE_NONES]
    row[20] = _related(child)
    if mode == ChildMode.DETACH:
        row[_STATUS] = "detached"
    else:
        reading.children[position] = row
    reading.steps.append(row)


def _child_finished(reading: _Reading, value: bytes) -> None:
    _, position, _, status, output, error = read_fields(value, RECORD_HEADER_BYTES, _CHILD_ENDED)
    row = reading.children.pop(position, None)
    if row is not None:
        name = _STATUS_NAMES.get(status, "completed").lower()
        _finish(row, _moment_ms(value), name, output, error)


def _finish(row: Row, at_ms: int, status: str, output: bytes, error: bytes) -> None:
    row[_STATUS], row[_FINISHED], row[_DURATION] = status, at_ms, _between(row[7], at_ms)
    row[_OUTPUT] = _text(output)
    if error:
        row[_STATUS] = "failed" if status == "completed" else status
        row[_ERROR_CODE : _ERROR_CODE + 3] = _error(error)


def _usage(reading: _Reading, value: bytes) -> None:
    fields = read_fields(value, RECORD_HEADER_BYTES, _USAGE)
    _, position, model, tokens_in, tokens_out, cost_usd, tool_calls = fields
    at_ms = _moment_ms(value)
    row = [reading.run, position, "usage", model or None, None, "completed", None, at_ms, at_ms]
    row += [None, None, None, None, None, None]
    row += [model or None, tokens_in, tokens_out, cost_usd, tool_calls, None]
    reading.steps.append(row)
    if reading.usage is None:
        reading.usage = {}
    of_model = reading.usage.setdefault(
        model,
        {"model": model, "tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0, "tool_calls": 0},
    )
    for name, amount in (
        ("tokens_in", tokens_in),
        ("tokens_out", tokens_out),
        ("cost_usd", cost_usd),
        ("tool_calls", tool_calls),
    ):
        of_model[name] = min(of_model[name] + amount, _COUNT_MAX)


def _retrying(reading: _Reading, value: bytes) -> None:
    error = read_fields(value, RECORD_HEADER_BYTES, _RETRYING)[2]
    _end_attempt(reading, _moment_ms(value), "failed", error)


def _yielded(reading: _Reading, value: bytes) -> None:
    _end_attempt(reading, _moment_ms(value), "yielded")


def _completed(reading: _Reading, value: bytes) -> None:
    reading.output = read_fields(value, RECORD_HEADER_BYTES, _OUTCOME)[1]
    _end_attempt(reading, _moment_ms(value), "completed")


def _failed(reading: _Reading, value: bytes) -> None:
    error = read_fields(value, RECORD_HEADER_BYTES, _FAILED)[1]
    _end_attempt(reading, _moment_ms(value), "failed", error)


def _cancelled(reading: _Reading, value: bytes) -> None:
    reading.reason = read_fields(value, RECORD_HEADER_BYTES, _REASON)[1]
    _end_attempt(reading, _moment_ms(value), "cancelled")


_READERS: Final[dict[int, Callable[[_Reading, bytes], None]]] = {
    RecordKind.RUN_STARTED: _started,
    RecordKind.STEP_COMPLETED: _step_completed,
    RecordKind.STEP_FAILED: _step_failed,
    RecordKind.WAIT_CREATED: _wait_created,
    RecordKind.WAIT_RESOLVED: _wait_resolved,
    RecordKind.CHILD_STARTED: _child_started,
    RecordKind.CHILD_FINISHED: _child_finished,
    RecordKind.USAGE_REPORTED: _usage,
    RecordKind.RUN_RETRYING: _retrying,
    RecordKind.RUN_YIELDED: _yielded,
    RecordKind.RUN_COMPLETED: _completed,
    RecordKind.RUN_FAILED: _failed,
    RecordKind.RUN_CANCELLED: _cancelled,
}
_SIX_NONES: Final = (None,) * 6
_NINE_NONES: Final = (None,) * 9
_COUNT_MAX: Final = 2**63 - 1


# ---- the rows ----


def _step_rows(reading: _Reading, summary: RunSummary) -> list[Row]:
    if summary.completed_us:
        # Nobody waits any more.
        for row in (*reading.waits.values(), *reading.children.values()):
            row[_STATUS] = "abandoned"
    completed_ms = summary.completed_us // 1_000 or None
    tail = [summary.component or None, summary.project_id or None, completed_ms]
    for row in reading.steps:
        row += tail
    return reading.steps


def _run_row(reading: _Reading, summary: RunSummary, values: Sequence[bytes]) -> Row:
    accepted = read_fields(values[0], RECORD_HEADER_BYTES, _ACCEPTED)
    given, output = accepted[5], reading.output
    code, message = summary.error_code, summary.error_message
    if summary.status == RunStatus.CANCELLED:
        code, message = "cancelled", reading.reason
    started_ms = summary.started_us // 1_000 or None
    completed_ms = summary.completed_us // 1_000 or None
    output_text = _text(output)
    return [
        reading.run,
        summary.project_id or None,
        summary.deployment_id or None,
        summary.component or None,
        _KIND_NAMES.get(summary.component_kind),
        _STATUS_NAMES.get(summary.status),
        summary.attempt,
        summary.created_us // 1_000,
        started_ms,
        completed_ms,
        _between(started_ms, completed_ms),
        summary.steps_completed,
        summary.steps_failed,
        summary.next_offset,
        summary.model or None,
        summary.tokens_in,
        summary.tokens_out,
        summary.cost_usd,
        summary.tool_calls,
        None if reading.usage is None else list(reading.usage.values()),
        code or None,
        message or None,
        error_signature(message) if message else None,
        summary.prompt_version or None,
        summary.trace_id or None,
        summary.correlation_id or None,
        accepted[8] or None,
        accepted[9] or None,
        accepted[18] or None,
        _related(summary.parent_run_id),
        _tags(accepted[14]) if accepted[14] else None,
        _text(given),
        len(given),
        output_text,
        len(output),
        _score(output_text) if summary.component_kind == ComponentKind.SCORER else None,
    ]


def _tags(entries: Sequence[bytes]) -> list[tuple[str, str]]:
    tags: dict[str, str] = {}
    for entry in entries:
        _, name, value = read_fields(entry, 0, _TAG)
        tags[name] = value
    return list(tags.items())


def _score(output: str | None) -> float | None:
    """Of a scorer: its output if that is a number, else the number in the field `score`."""
    try:
        score = msgspec.json.decode(output) if output else None
    except msgspec.DecodeError:
        return None
    if isinstance(score, dict):
        score = score.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float):
        return None
    try:
        return float(score)
    except OverflowError:  # JSON has no largest number
        return None
