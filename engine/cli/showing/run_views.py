"""What `engine runs` prints: lists, one run, events as they come; or the same as JSON.

Knows neither the client nor the arguments: it is handed what it shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from engine.base.clock import Clock
from engine.cli.showing.readable import (
    age_text,
    clipped,
    clock_text,
    duration_text,
    error_text,
    live_text,
    moment_text,
    plain,
    record_name,
    record_text,
    status_text,
    value_text,
    wait_text,
)
from engine.model.records import STATUS_AFTER, RecordKind
from engine.model.views import STATUS_NAMES, RunView, StatusName
from engine.sdk.client.requests import JournalRecord
from engine.sdk.client.sse import Event

_PIPE_COLUMNS: Final = 200  # lines are not wrapped where nobody looks at them
_EVENT_COLUMNS: Final = 24
_VALUE_CHARACTERS: Final = 2_000


def console() -> Console:
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_PIPE_COLUMNS)


def print_json(value: object) -> None:
    click.echo(msgspec.json.encode(value))


def say_done(done: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(done)
    else:
        what = "".join(f" {value_text(done[name])}" for name in ("signal", "value") if name in done)
        click.echo(f"{done['run_id']} {done['done']}{what}")


# ---- a list ----


def show_list(runs: Sequence[RunView], now_ms: int, *, has_more: bool) -> None:
    if not runs:
        click.echo("no runs")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "status", "component"):
        table.add_column(name, no_wrap=True)
    for name in ("created", "took", "steps"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("error", no_wrap=True, overflow="ellipsis")
    for run in runs:
        table.add_row(
            run.run_id,
            status_text(run.status),
            Text(plain(run.component)),
            age_text(run.created_ms, now_ms),
            _took(run, now_ms),
            str(run.steps_completed + run.steps_failed),
            Text(_error(run)),
        )
    console().print(table)
    if has_more:
        click.echo("there are more: --limit N shows more of them, --since and --status fewer")


def _took(run: RunView, now_ms: int) -> str:
    if run.completed_ms:
        return duration_text(run.duration_ms)
    return duration_text(max(0, now_ms - run.started_ms)) if run.started_ms else ""


def _error(run: RunView) -> str:
    if not run.error_message and not run.error_code:
        return ""
    return clipped(f"{run.error_code}: {run.error_message}")


# ---- one run ----


def show_run(run: RunView, why: str, journal: Sequence[JournalRecord], now_ms: int) -> None:
    shown = console()
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(run, journal, now_ms):
        facts.add_row(name, value)
    if why:
        facts.add_row("why", plain(why))
    shown.print(facts)
    for wait in run.waits:
        if wait.kind == "user":
            shown.print(f"\nanswer it: engine runs answer {run.run_id} ANSWER", soft_wrap=True)
            break
    _show_journal(shown, run, journal)


def _facts(
    run: RunView, journal: Sequence[JournalRecord], now_ms: int
) -> Iterable[tuple[str, str | Text]]:
    attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
    yield "run", run.run_id
    yield "status", Text.assemble(status_text(run.status), attempt)
    yield "component", Text(plain(f"{run.component} ({run.kind}), deployment {run.deployment_id}"))
    yield "created", f"{moment_text(run.created_ms)}, {age_text(run.created_ms, now_ms)}"
    if run.completed_ms:
        took = duration_text(max(0, run.completed_ms - run.created_ms))
        yield "ended", f"{moment_text(run.completed_ms)}, {took} after it was created"
    yield "steps", f"{run.steps_completed} completed, {run.steps_failed} failed"
    if run.model:
        yield "models", plain(f"{run.model}: {run.tokens_in} tokens in, {run.tokens_out} out")
    if run.parent_run_id:
        yield "parent", run.parent_run_id
    for name in ("session_id", "user_id", "entity_key", "correlation_id", "trace_id"):
        if getattr(run, name):
            yield name.removesuffix("_id").removesuffix("_key"), plain(getattr(run, name))
    if run.tags:
        yield "tags", plain(", ".join(f"{name}={text}" for name, text in run.tags.items()))
    first = journal[0].payload if journal and journal[0].kind == "RUN_ACCEPTED" else {}
    if "input" in first:
        yield "input", Text(value_text(first["input"], _VALUE_CHARACTERS))
    yield from _ending(journal)
    for wait in run.waits:
        yield f"wait {wait.wait_id}", Text(wait_text(wait))


def _ending(journal: Sequence[JournalRecord]) -> Iterable[tuple[str, Text]]:
    last = journal[-1] if journal else None
    if last is not None and last.kind == "RUN_COMPLETED":
        yield "output", Text(value_text(last.payload.get("output"), _VALUE_CHARACTERS))
    elif last is not None and last.kind == "RUN_FAILED":
        error = last.payload.get("error") or {}
        yield "error", Text(error_text(error, _VALUE_CHARACTERS), style="red")
        if error.get("traceback"):
            lines = str(error["traceback"]).rstrip().splitlines()
            yield "", Text("\n".join(map(plain, lines)), style="bright_black")


def _show_journal(shown: Console, run: RunView, journal: Sequence[JournalRecord]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right", style="bright_black")
    table.add_column("after", justify="right", no_wrap=True)
    table.add_column("record", no_wrap=True)
    table.add_column("", overflow="fold")
    for record in journal:
        table.add_row(
            str(record.offset),
            duration_text(max(0, record.timestamp_us // 1_000 - run.created_ms)),
            record.kind,
            record_text(record.kind, record.payload),
        )
    shown.print()
    if journal and journal[0].offset > 0:
        earlier = journal[0].offset
        shown.print(f"{earlier:,} earlier records; --records {run.next_offset} shows them too")
    shown.print(table)


# ---- events ----


def show_events(run_id: str, events: Iterable[Event], clock: Clock) -> str:
    """A line for each as it comes, and below them where the run stands; the last one's name."""
    shown = Console(highlight=False, soft_wrap=True)
    standing = _Standing(run_id, clock)
    last = ""
    with Status(standing, console=shown):
        for event in events:
            name = record_name(event.name)
            standing.note(name, event.data)
            shown.print(_event_line(event, name, clock))
            last = event.name
    return last


def _event_line(event: Event, name: str, clock: Clock) -> Text:
    fields = event.data if isinstance(event.data, dict) else {}
    is_recorded = event.id is not None
    at_ms = fields.get("at_ms") if is_recorded else None
    line = Text(clock_text(at_ms or clock.now_ms()), style="bright_black")
    line.append(f"  {plain(event.name):<{_EVENT_COLUMNS}} ", style="bold not bright_black")
    said = record_text(name, fields) if is_recorded else live_text(event.data)
    return Text.assemble(line, said)


class _Standing:
    """Where a run stands, said anew whenever the terminal draws it."""

    def __init__(self, run_id: str, clock: Clock) -> None:
        self._run_id = run_id
        self._clock = clock
        self._since_us = clock.monotonic_us()
        self._status: StatusName | None = None
        self._steps = 0

    def note(self, name: str, data: object) -> None:
        if name == "WAIT_CREATED" and isinstance(data, dict) and data.get("parks"):
            self._status = "WAITING"
        elif name == "WAIT_RESOLVED" and self._status == "WAITING":
            self._status = "QUEUED"
        elif (kind := RecordKind.__members__.get(name)) in STATUS_AFTER:
            self._status = STATUS_NAMES[STATUS_AFTER[kind]]
        self._steps += name == "STEP_COMPLETED"
        self._since_us = self._clock.monotonic_us()

    def __rich__(self) -> Text:
        quiet_ms = (self._clock.monotonic_us() - self._since_us) // 1_000
        quiet = f", nothing new for {duration_text(quiet_ms)}" if quiet_ms >= 1_000 else ""
        status = status_text(self._status) if self._status is not None else Text("following")
        return Text.assemble(status, f"  {self._run_id}  {self._steps} steps{quiet}")
