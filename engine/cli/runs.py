"""`engine runs`: look at runs and act on them, over HTTP, wherever the runtime is.

Owns the commands and their arguments. What is asked goes through the SDK's `Client`, as a user's
program would ask it; how a run reads is in `readable.py` and `run_views.py`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final, get_args

import click
import msgspec

from engine.base.clock import system_clock
from engine.base.errors import InvalidName, UnknownRun, UnknownWait
from engine.base.ids import parse_run_id, run_id_text
from engine.cli.reaching import json_option, moment_option, over_http, tags_given
from engine.cli.showing import run_views
from engine.cli.showing.readable import plain
from engine.model.views import KindName, RunView, StatusName, WaitView
from engine.sdk.client.client import Client
from engine.sdk.client.requests import RunFilters
from engine.sdk.errors import RunFailed

LIST_LIMIT: Final = 20
PAGE_RUNS_MAX: Final = 1_000
RECORDS_SHOWN: Final = 100
PREFIX_DIGITS_MIN: Final = 8

_STATUSES: Final = get_args(StatusName)
_KINDS: Final = get_args(KindName)
_PREFIX: Final = re.compile(r"[0-9a-f-]{8,35}")


@click.group()
def runs() -> None:
    """Look at runs and act on them, over HTTP.

    A RUN is a run's id, or its first 8 or more characters if the run is one of the latest.
    """


# ---- which run ----

run_argument = click.argument("run", metavar="RUN")


def run_named(client: Client, text: str) -> str:
    """The whole id of a run that is given by its id or the beginning of it."""
    given = text.strip().lower()
    try:
        return run_id_text(parse_run_id(given))
    except InvalidName as error:
        if not _PREFIX.fullmatch(given) or len(given.replace("-", "")) < PREFIX_DIGITS_MIN:
            raise InvalidName(
                f"{error.message}; its first {PREFIX_DIGITS_MIN} or more characters are enough",
                **error.details,
            ) from error
    latest = client.list(limit=PAGE_RUNS_MAX).runs
    found = [view.run_id for view in latest if view.run_id.startswith(given)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = "\n  ".join(found[:5])
        raise InvalidName(f"{len(found)} of the latest runs begin with {given}:\n  {shown}")
    raise UnknownRun(
        f"none of the latest {len(latest):,} runs begins with {given}; give the whole id"
    )


def json_argument(text: str | None, what: str) -> Any:
    """A value from the command line: JSON, @FILE with JSON, or - for standard input."""
    if text is None:
        return None
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{what} cannot be read from a file: {error}") from error
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        hint = (
            f"; a text needs its quotes: '\"{text}\"'" if re.fullmatch(r"[\w .@-]+", text) else ""
        )
        raise click.UsageError(f"{what} is not JSON: {error}{hint}") from error


# ---- looking ----


@runs.command("ls")
@click.option("--status", type=click.Choice(_STATUSES, case_sensitive=False))
@click.option("--failed", is_flag=True, help="The same as --status FAILED.")
@click.option("--component", metavar="NAME")
@click.option("--kind", type=click.Choice(_KINDS, case_sensitive=False))
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="May be repeated.")
@click.option("--error-code", metavar="CODE", help="Failed with this code.")
@click.option("--parent", metavar="RUN", help="Child runs of this run.")
@click.option("--since", metavar="SPAN|DATE", help="Created since: 90s, 15min, 3h, 7d, 2026-01-31.")
@click.option("--limit", type=click.IntRange(min=1), default=LIST_LIMIT, show_default=True)
@json_option
@over_http
def list_runs(
    client: Client,
    status: str | None,
    failed: bool,
    component: str | None,
    kind: str | None,
    tags: tuple[str, ...],
    error_code: str | None,
    parent: str | None,
    since: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, newest first: those that are going on and those in the archive."""
    if failed and status not in (None, "FAILED"):
        raise click.UsageError("--failed and --status are about the same; give one of them")
    now_ms = system_clock.now_ms()
    filters: RunFilters = {
        "status": "FAILED" if failed else status,
        "component": component,
        "kind": kind,
        "tags": tags_given(tags),
        "error_code": error_code,
        "parent": None if parent is None else run_named(client, parent),
        "created_from_ms": moment_option(since, "--since", now_ms),
    }
    found: list[RunView] = []
    cursor: str | None = None
    while True:
        filters["limit"] = min(limit - len(found), PAGE_RUNS_MAX)
        filters["cursor"] = cursor
        page = client.list(**filters)
        found.extend(page.runs)
        cursor = page.next_cursor
        if cursor is None or len(found) >= limit:
            break
    if as_json:
        run_views.print_json({"runs": found, "next_cursor": cursor})
    else:
        run_views.show_list(found, now_ms, has_more=cursor is not None)


@runs.command()
@run_argument
@click.option(
    "--records",
    type=click.IntRange(min=1),
    default=RECORDS_SHOWN,
    show_default=True,
    help="How many of the journal's last records.",
)
@json_option
@over_http
def show(client: Client, run: str, records: int, as_json: bool) -> None:
    """Show a run: what it was given, what became of it, what it waits for, its journal."""
    run_id = run_named(client, run)
    view = client.get(run_id)
    why = "" if view.completed_ms else client.why(run_id)
    first = max(0, view.next_offset - records)
    journal = list(client.journal(run_id, from_offset=first))
    if as_json:
        run_views.print_json({"run": view, "why": why, "journal": journal})
    else:
        run_views.show_run(view, why, journal, system_clock.now_ms())


@runs.command()
@run_argument
@click.option(
    "--after", type=click.IntRange(min=0), metavar="OFFSET", help="Only what comes later."
)
@json_option
@over_http
def tail(client: Client, run: str, after: int | None, as_json: bool) -> None:
    """Follow a run until it ends. Exit code 1 if it did not complete."""
    follow(client, run_named(client, run), after=after, as_json=as_json)


@runs.command()
@run_argument
@json_option
@over_http
def why(client: Client, run: str, as_json: bool) -> None:
    """Say why a run is not progressing."""
    run_id = run_named(client, run)
    sentence = client.why(run_id)
    if as_json:
        run_views.print_json({"run_id": run_id, "why": sentence})
    else:
        click.echo(plain(sentence))


# ---- acting ----


@runs.command()
@click.argument("component")
@click.argument("given", metavar="[INPUT]", required=False)
@click.option("--kind", default="workflow", show_default=True, help="Or function, tool, ...")
@click.option("--key", metavar="KEY", help="Idempotency key: the same key starts nothing twice.")
@click.option("--deployment", metavar="NAME", help="Which deployment of the component.")
@click.option("--tag", "tags", multiple=True, metavar="NAME=TEXT", help="May be repeated.")
@click.option("--wait", is_flag=True, help="Wait for the run and print what it returned.")
@click.option("--tail", "follows", is_flag=True, help="Follow the run until it ends.")
@json_option
@over_http
def start(
    client: Client,
    component: str,
    given: str | None,
    kind: str,
    key: str | None,
    deployment: str | None,
    tags: tuple[str, ...],
    wait: bool,
    follows: bool,
    as_json: bool,
) -> None:
    """Start a run of COMPONENT. INPUT is JSON, @FILE, or - for standard input."""
    options: dict[str, Any] = {"idempotency_key": key, "deployment_id": deployment}
    run_id = client.submit(
        component,
        json_argument(given, "INPUT"),
        kind=kind,
        tags=tags_given(tags),
        **{name: text for name, text in options.items() if text is not None},
    )
    if follows:
        follow(client, run_id, after=None, as_json=as_json)
    elif wait:
        show_ending(client, run_id, as_json=as_json)
    elif as_json:
        run_views.print_json({"run_id": run_id})
    else:
        click.echo(f"started {run_id}\nfollow it: engine runs tail {run_id}")


@runs.command()
@run_argument
@click.option("--reason", default="", help="Is recorded in the journal.")
@json_option
@over_http
def cancel(client: Client, run: str, reason: str, as_json: bool) -> None:
    """Cancel a run."""
    run_id = run_named(client, run)
    client.cancel(run_id, reason)
    run_views.say_done({"run_id": run_id, "done": "cancelled"}, as_json=as_json)


@runs.command()
@run_argument
@click.argument("name")
@click.argument("payload", required=False)
@click.option("--id", "signal_id", metavar="ID", help="The same id twice counts once.")
@json_option
@over_http
def signal(
    client: Client, run: str, name: str, payload: str | None, signal_id: str | None, as_json: bool
) -> None:
    """Send a run the signal NAME. PAYLOAD is JSON, @FILE, or - for standard input."""
    run_id = run_named(client, run)
    client.signal(run_id, name, json_argument(payload, "PAYLOAD"), signal_id=signal_id)
    run_views.say_done({"run_id": run_id, "done": "signalled", "signal": name}, as_json=as_json)


@runs.command()
@run_argument
@click.argument("answer", required=False)
@click.option("--wait-id", metavar="ID", help="Which question, if the run has several.")
@json_option
@over_http
def answer(
    client: Client, run: str, answer: str | None, wait_id: str | None, as_json: bool
) -> None:
    """Answer what a run asks a person. Without ANSWER the question is asked here.

    ANSWER is yes or no for an approval, a text, one of the options, or several with commas.
    """
    run_id = run_named(client, run)
    wait = open_question(client.get(run_id), wait_id)
    given = answer if answer is not None else click.prompt(question_text(wait), err=True)
    value = answer_value(wait, given)
    client.resolve_wait(run_id, wait.wait_id, value)
    done = {"run_id": run_id, "done": "answered", "wait_id": wait.wait_id, "value": value}
    run_views.say_done(done, as_json=as_json)


def open_question(view: RunView, wait_id: str | None) -> WaitView:
    asked = [wait for wait in view.waits if wait.kind == "user"]
    chosen = [wait for wait in asked if wait_id in (None, wait.wait_id)]
    if len(chosen) == 1:
        return chosen[0]
    if not asked:
        raise UnknownWait(
            f"run {view.run_id} is {view.status} and asks nobody anything; `engine runs show` "
            "tells more"
        )
    questions = "\n".join(f"  --wait-id {wait.wait_id}  {plain(wait.question)}" for wait in asked)
    raise click.UsageError(f"say which question is answered:\n{questions}")


def question_text(wait: WaitView) -> str:
    choices = {"approval": ("yes", "no")}.get(wait.input_type, wait.options)
    return plain(wait.question) + (f" [{', '.join(map(plain, choices))}]" if choices else "")


def answer_value(wait: WaitView, text: str) -> object:
    """The answer in the form that the workflow expects."""
    match wait.input_type:
        case "approval":
            try:
                return click.BOOL.convert(text, None, None)
            except click.BadParameter as error:
                raise click.UsageError(f"{text!r} is neither yes nor no") from error
        case "select":
            return _option(wait, text)
        case "multiselect":
            return [_option(wait, part.strip()) for part in text.split(",") if part.strip()]
        case _:
            return text


def _option(wait: WaitView, text: str) -> str:
    if text not in wait.options:
        raise click.UsageError(f"{text!r} is not one of {', '.join(map(plain, wait.options))}")
    return text


# ---- until the end ----


def follow(client: Client, run_id: str, *, after: int | None, as_json: bool) -> None:
    events = client.events(run_id, after=after)
    if as_json:
        last = ""
        for event in events:
            run_views.print_json(event)
            last = event.name
    else:
        last = run_views.show_events(run_id, events, system_clock)
    if last in ("run.failed", "run.cancelled"):
        click.get_current_context().exit(1)


def show_ending(client: Client, run_id: str, *, as_json: bool) -> None:
    try:
        output = client.result(run_id)
    except RunFailed as failure:
        if as_json:
            run_views.print_json(
                {"run_id": run_id, "status": failure.status, "error": failure.error}
            )
        else:
            click.echo(plain(f"error [{failure.code}]: {failure}"), err=True)
        click.get_current_context().exit(1)
    run_views.print_json(
        {"run_id": run_id, "status": "COMPLETED", "output": output} if as_json else output
    )
