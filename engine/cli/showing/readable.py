"""Runs, records and events in words and colours, for those who read them in a terminal.

Everything here returns text. What a user's code wrote (names, values, messages) reaches the
terminal without its control characters. Knows neither the client nor the console.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import msgspec
from rich.text import Text

from engine.model.payloads import ChildMode, StateScope, WaitKind, WaitOutcome
from engine.model.runs import RunStatus
from engine.model.views import StatusName, WaitView

VALUE_CHARACTERS: Final = 80

STATUS_STYLES: Final[Mapping[StatusName, str]] = MappingProxyType(
    {
        "QUEUED": "cyan",
        "RUNNING": "bold blue",
        "WAITING": "magenta",
        "RETRYING": "yellow",
        "COMPLETED": "green",
        "FAILED": "bold red",
        "CANCELLED": "bright_black",
    }
)
assert set(STATUS_STYLES) == {status.name for status in RunStatus}

_SECOND_MS: Final = 1_000
_MINUTE_MS: Final = 60 * _SECOND_MS
_HOUR_MS: Final = 60 * _MINUTE_MS
_DAY_MS: Final = 24 * _HOUR_MS

Fields = Mapping[str, Any]


# ---- parts ----


def status_text(status: StatusName) -> Text:
    return Text(status, style=STATUS_STYLES[status])


def duration_text(duration_ms: int) -> str:
    """Two units at most: nobody compares hours by their milliseconds."""
    if duration_ms < _SECOND_MS:
        return f"{duration_ms} ms"
    if duration_ms < _MINUTE_MS:
        return f"{duration_ms / _SECOND_MS:.1f} s"
    for unit_ms, unit, part_ms, part in (
        (_DAY_MS, "d", _HOUR_MS, "h"),
        (_HOUR_MS, "h", _MINUTE_MS, "min"),
        (_MINUTE_MS, "min", _SECOND_MS, "s"),
    ):
        if duration_ms >= unit_ms:
            rest = duration_ms % unit_ms // part_ms
            return f"{duration_ms // unit_ms} {unit}" + (f" {rest} {part}" if rest else "")
    raise AssertionError("a minute and more has a unit")


def bytes_text(size: int) -> str:
    """In the unit that leaves one to three digits before the point."""
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{size:,} bytes" if unit == "bytes" else f"{amount:,.1f} {unit}"


def age_text(moment_ms: int, now_ms: int) -> str:
    if moment_ms > now_ms:
        return f"in {duration_text(moment_ms - now_ms)}"
    if now_ms - moment_ms < _SECOND_MS:
        return "just now"
    if now_ms - moment_ms < _MINUTE_MS:
        return f"{(now_ms - moment_ms) // _SECOND_MS} s ago"
    return f"{duration_text(now_ms - moment_ms)} ago"


def moment_text(moment_ms: int) -> str:
    moment = datetime.fromtimestamp(moment_ms / _SECOND_MS, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def clock_text(moment_ms: int) -> str:
    moment = datetime.fromtimestamp(moment_ms / _SECOND_MS, UTC)
    return f"{moment:%H:%M:%S}.{moment_ms % _SECOND_MS:03}"


def value_text(value: object, characters_max: int = VALUE_CHARACTERS) -> str:
    return clipped(msgspec.json.encode(value).decode(), characters_max)


def clipped(text: str, characters_max: int = VALUE_CHARACTERS) -> str:
    text = plain(text)
    return text if len(text) <= characters_max else f"{text[: characters_max - 1]}…"


def plain(text: str) -> str:
    """Without what a terminal would obey instead of showing it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def error_text(error: Fields | None, characters_max: int = 4 * VALUE_CHARACTERS) -> str:
    if not error:
        return ""
    name = error.get("type") or error.get("code") or "error"
    message = error.get("message", "")
    return clipped(f"{name}: {message}" if message else name, characters_max)


def wait_text(wait: WaitView) -> str:
    until = f" until {moment_text(wait.due_ms)}" if wait.due_ms else ""
    match wait.kind:
        case "timer":
            return f"sleeps{until}"
        case "signal":
            return f"for signal {plain(wait.name)!r}{until}"
        case "user":
            options = f" [{', '.join(map(plain, wait.options))}]" if wait.options else ""
            return f"for a person: {plain(wait.question)}{options}{until}"
        case "child":
            return "for a child run"


# ---- records and events ----


def record_name(event: str) -> str:
    """`workflow.step.completed` and `run.completed` as the journal calls them: the kind of run is
    left out, and what has two names gets one."""
    *before, last = event.split(".")
    name = f"{before[-1] if before else 'run'}_{last}".upper()
    return "RUN_ACCEPTED" if name == "RUN_QUEUED" else name


def record_text(name: str, fields: Fields) -> Text:
    """What a record says, in a line. Its fields are as the gateway shows them."""
    say = _SAYERS.get(name)
    return Text(plain(say(fields)), style=_STYLES.get(name, "")) if say else _unknown(fields)


def live_text(data: object) -> Text:
    """What a run emitted: text as it stands, anything else as JSON."""
    said = plain(data) if isinstance(data, str) else value_text(data, 4 * VALUE_CHARACTERS)
    return Text(said, style="italic")


def _unknown(fields: Fields) -> Text:
    return Text(value_text(fields))


def _name_of(kinds: type[enum.IntEnum], given: object) -> str:
    """Events have enums by number, the journal by name."""
    try:
        return kinds(given).name if isinstance(given, int) else str(given or "")
    except ValueError:
        return str(given)


def _accepted(fields: Fields) -> str:
    return f"{fields.get('component', '')} {value_text(fields.get('input'))}".strip()


def _started(fields: Fields) -> str:
    return f"attempt {fields.get('attempt', 0)}, by worker {fields.get('worker_id', '')}"


def _step(fields: Fields) -> str:
    key = f" [{fields['key']}]" if fields.get("key") else ""
    return f"{fields.get('name', '')}{key}"


def _step_completed(fields: Fields) -> str:
    took_ms = fields.get("finished_ms", 0) - fields.get("started_ms", 0)
    output = fields.get("output")
    shown = "" if output is None else f" → {value_text(output)}"
    return f"{_step(fields)}{shown} ({duration_text(max(0, took_ms))})"


def _step_failed(fields: Fields) -> str:
    retry_at_ms = fields.get("retry_at_ms", 0)
    after_ms = max(0, retry_at_ms - fields.get("finished_ms", retry_at_ms))
    then = f", once more in {duration_text(after_ms)}" if retry_at_ms else ", for good"
    attempt = fields.get("attempt", 1)
    return f"{_step(fields)}: {error_text(fields.get('error'))} (attempt {attempt}{then})"


def _wait_created(fields: Fields) -> str:
    kind = _name_of(WaitKind, fields.get("kind"))
    due_ms = fields.get("due_ms", 0)
    until = f" until {moment_text(due_ms)}" if due_ms else ""
    match kind:
        case "TIMER":
            return f"sleeps{until}"
        case "SIGNAL":
            return f"for signal {fields.get('name', '')!r}{until}"
        case "USER":
            wait = f" (wait {fields.get('wait_id', '')})"
            return f"for a person: {fields.get('question', '')}{wait}{until}"
        case _:
            return f"for a {kind.lower()}{until}"


def _wait_resolved(fields: Fields) -> str:
    outcome = _name_of(WaitOutcome, fields.get("outcome")).lower().replace("_", " ")
    value = f": {value_text(fields['value'])}" if "value" in fields else ""
    return f"{outcome}{value}"


def _signal(fields: Fields) -> str:
    payload = f": {value_text(fields['payload'])}" if "payload" in fields else ""
    return f"{fields.get('name', '')!r}{payload}"


def _child_started(fields: Fields) -> str:
    is_detached = _name_of(ChildMode, fields.get("mode")) == "DETACH"
    detached = ", detached" if is_detached else ""
    return f"{fields.get('component', '')} as {fields.get('child_run_id', '')}{detached}"


def _child_finished(fields: Fields) -> str:
    status = _name_of(RunStatus, fields.get("status"))
    output = f" → {value_text(fields['output'])}" if "output" in fields else ""
    error = f": {error_text(fields['error'])}" if fields.get("error") else ""
    return f"{fields.get('child_run_id', '')} {status}{output}{error}"


def _state_changed(fields: Fields) -> str:
    scope = _name_of(StateScope, fields.get("scope")).lower()
    value = "deleted" if fields.get("deleted") else f"= {value_text(fields.get('value'))}"
    return f"{scope} {fields.get('name', '')} {value}"


def _state_read(fields: Fields) -> str:
    value = f"= {value_text(fields.get('value'))}" if fields.get("found") else "has no value"
    scope = _name_of(StateScope, fields.get("scope")).lower()
    return f"{scope} {fields.get('name', '')} {value}, revision {fields.get('revision', 0)}"


def _state_conflicted(fields: Fields) -> str:
    scope = _name_of(StateScope, fields.get("scope")).lower()
    there, expected = fields.get("revision", 0), fields.get("expected_revision", 0)
    return f"{scope} {fields.get('name', '')} is at revision {there}, not {expected}"


def _usage(fields: Fields) -> str:
    cost = f", ${fields['cost_usd']:.4f}" if fields.get("cost_usd") else ""
    tokens = f"{fields.get('tokens_in', 0)} tokens in, {fields.get('tokens_out', 0)} out"
    return f"{fields.get('model', '')} {tokens}{cost}".strip()


def _retrying(fields: Fields) -> str:
    at = moment_text(fields.get("retry_at_ms", 0))
    return f"{error_text(fields.get('error'))} (the next attempt begins at {at})"


def _reason(fields: Fields) -> str:
    by = f"by {fields['requested_by']}" if fields.get("requested_by") else ""
    return ", ".join(part for part in (fields.get("reason", ""), by) if part)


_SAYERS: Final[Mapping[str, Callable[[Fields], str]]] = MappingProxyType(
    {
        "RUN_ACCEPTED": _accepted,
        "RUN_STARTED": _started,
        "STEP_COMPLETED": _step_completed,
        "STEP_FAILED": _step_failed,
        "WAIT_CREATED": _wait_created,
        "WAIT_RESOLVED": _wait_resolved,
        "SIGNAL_RECEIVED": _signal,
        "CHILD_STARTED": _child_started,
        "CHILD_FINISHED": _child_finished,
        "STATE_CHANGED": _state_changed,
        "STATE_READ": _state_read,
        "STATE_CONFLICTED": _state_conflicted,
        "USAGE_REPORTED": _usage,
        "RUN_RETRYING": _retrying,
        "RUN_YIELDED": _reason,
        "CANCEL_REQUESTED": _reason,
        "RUN_COMPLETED": lambda fields: value_text(fields.get("output"), 4 * VALUE_CHARACTERS),
        "RUN_FAILED": lambda fields: error_text(fields.get("error")),
        "RUN_CANCELLED": _reason,
    }
)
_STYLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "STEP_FAILED": "yellow",
        "RUN_RETRYING": "yellow",
        "STATE_CONFLICTED": "yellow",
        "RUN_COMPLETED": STATUS_STYLES["COMPLETED"],
        "RUN_FAILED": STATUS_STYLES["FAILED"],
        "RUN_CANCELLED": STATUS_STYLES["CANCELLED"],
    }
)
