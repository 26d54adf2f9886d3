"""The clients against a small gateway: one suite for the blocking one and the awaited one, the
latter on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
import pytest
import trio

from engine.base.clock import ManualClock
from engine.base.errors import (
    EngineError,
    InvalidEndpoint,
    InvalidInput,
    RunTerminal,
    UnknownComponent,
    UnknownRun,
)
from engine.sdk import AsyncClient, Client, Context, RunFailed, function, limits, workflow
from engine.sdk.client.client import Deadline
from engine.sdk.errors import ConnectionLost
from tests.sdk.fake_gateway import FakeGateway, serving

Ask = Callable[..., Any]


def _ask_blocking(url: str, name: str, *args: Any, **named: Any) -> Any:
    with Client(url, api_key="sk_test") as client:
        answer = getattr(client, name)(*args, **named)
        return list(answer) if isinstance(answer, Iterator) else answer


async def _ask_awaited(url: str, name: str, args: Any, named: Any) -> Any:
    async with AsyncClient(url, api_key="sk_test") as client:
        answer = getattr(client, name)(*args, **named)
        if isinstance(answer, AsyncIterator):
            return [one async for one in answer]
        return await answer


def _ask_on_asyncio(url: str, name: str, *args: Any, **named: Any) -> Any:
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_ask_awaited(url, name, args, named))


def _ask_on_trio(url: str, name: str, *args: Any, **named: Any) -> Any:
    return trio.run(_ask_awaited, url, name, args, named)


@pytest.fixture(params=[_ask_blocking, _ask_on_asyncio, _ask_on_trio])
def asking(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FakeGateway, Ask]]:
    monkeypatch.setattr(limits, "reconnect_ms_initial", 0)
    with serving() as (gateway, url):
        yield gateway, lambda name, *args, **named: request.param(url, name, *args, **named)


class Receipt(msgspec.Struct):
    cents: int


@workflow
async def checkout(ctx: Context, order: dict[str, Any]) -> Receipt:
    return Receipt(0)


@function(name="greet-you")
def greet(name: str) -> str:
    return name


# ---- starting ----


def test_run_starts_and_waits(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    assert ask("run", "checkout", {"output": [1, 2]}) == [1, 2]
    assert (gateway.last.method, gateway.last.path) == ("POST", "/v1/workflow/checkout/run")
    assert gateway.last.body == {"output": [1, 2]}
    assert gateway.last.headers["x-api-key"] == "sk_test"
    assert gateway.last.headers["content-type"] == "application/json"


def test_a_component_gives_its_kind_and_its_type(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    assert ask("run", checkout, {"output": {"cents": 5}}) == Receipt(5)
    assert gateway.last.path == "/v1/workflow/checkout/run"
    ask("run", greet, {"output": "x"})
    assert gateway.last.path == "/v1/function/greet-you/run"
    ask("run", "some tool", kind="tool")
    assert gateway.last.path == "/v1/tool/some%20tool/run"


def test_everything_that_can_be_said_of_a_start(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask(
        "submit",
        "checkout",
        idempotency_key="k",
        deployment_id="blue",
        session_id="s",
        user_id="u",
        correlation_id="c",
        entity_key="e",
        prompt_version="v",
        start_at_ms=5,
        tags={"a": "b"},
    )
    assert run_id == "run-0"
    assert gateway.last.query == {
        "correlation_id": "c",
        "entity_key": "e",
        "prompt_version": "v",
        "start_at_ms": "5",
        "tag.a": "b",
    }
    headers = ("idempotency-key", "x-deployment-id", "x-session-id", "x-user-id")
    assert [gateway.last.headers[name] for name in headers] == ["k", "blue", "s", "u"]


def test_a_run_that_fails_is_raised_with_its_error(asking: tuple[FakeGateway, Ask]) -> None:
    _, ask = asking
    error = {"code": "declined", "message": "no money", "type": "Declined"}
    with pytest.raises(RunFailed, match="run run-0 failed: Declined: no money") as caught:
        ask("run", "checkout", {"error": error})
    assert (caught.value.error_code, caught.value.type) == ("declined", "Declined")
    assert (caught.value.run_id, caught.value.status) == ("run-0", "FAILED")


# ---- asking ----


def test_result_is_asked_for_until_it_is_there(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask("submit", "checkout", {"output": {"cents": 1}, "waits": 2})
    assert ask("result", run_id, component=checkout) == Receipt(1)
    assert [asked.query for asked in gateway.asked[1:]] == [{"wait_s": "20"}] * 3


def test_result_is_given_up_in_time(asking: tuple[FakeGateway, Ask]) -> None:
    _, ask = asking
    run_id = ask("submit", "checkout", {"waits": 1_000_000})
    with pytest.raises(TimeoutError, match="has not ended within 0 s"):
        ask("result", run_id, timeout=0)


def test_a_long_wait_is_made_of_several() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 50)
    waits = []
    for _ in range(3):
        deadline.check("run")
        waits.append(deadline.wait_s())
        clock.advance_us(int(waits[-1] * 1_000_000))
    assert waits == [20, 20, 10]
    with pytest.raises(TimeoutError, match="within 50 s"):
        deadline.check("run")


def test_what_can_be_asked_about_a_run(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask("submit", "checkout")
    assert ask("status", run_id) == "RUNNING"
    assert ask("why", run_id) == "It is waiting."
    view = ask("get", run_id)
    assert (view.run_id, view.waits[0].question) == (run_id, "Go?")
    page = ask("list", status="RUNNING", component="checkout", limit=7)
    assert (page.runs[0].run_id, page.next_cursor) == (run_id, "c")
    assert gateway.last.query == {"status": "RUNNING", "component": "checkout", "limit": "7"}


def test_the_journal_is_read_page_by_page(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask("submit", "checkout")
    records = ask("journal", run_id)
    assert [record.payload["n"] for record in records] == [0, 1, 2, 3, 4]
    assert records[0].kind == "STEP_COMPLETED"
    assert len(gateway.asked) == 1 + 4


# ---- events ----

NAMES = ["run.queued", "run.started", "a.step.completed", "output.delta", "run.completed"]


def test_events_until_the_end(asking: tuple[FakeGateway, Ask]) -> None:
    _, ask = asking
    run_id = ask("submit", "checkout")
    events = ask("events", run_id)
    assert [event.name for event in events] == NAMES
    assert [event.id for event in events] == [0, 1, 2, None, 3]
    assert events[3].data == "live"


def test_events_go_on_where_a_connection_broke(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask("submit", "checkout")
    gateway.events_before_a_break, gateway.breaks_left = 1, 2
    assert [event.name for event in ask("events", run_id)] == NAMES
    resumed = [asked.headers.get("last-event-id") for asked in gateway.asked[1:]]
    assert [one for one in resumed if one is not None] == ["0", "1"]


def test_events_behind_the_last_one(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask("submit", "checkout")
    gateway.runs[run_id].status = "COMPLETED"
    assert ask("events", run_id, after=3) == []
    assert [event.id for event in ask("events", run_id, after=1)] == [2, None, 3]


def test_an_error_in_the_stream_is_raised(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask("submit", "checkout")
    gateway.events[1] = b'event: error\ndata: {"code": "gone", "detail": "trimmed"}\n\n'
    with pytest.raises(EngineError, match="trimmed") as caught:
        ask("events", run_id)
    assert caught.value.code == "gone"


def test_events_of_a_run_that_is_not_there(asking: tuple[FakeGateway, Ask]) -> None:
    _, ask = asking
    with pytest.raises(UnknownRun):
        ask("events", "nope")


# ---- changing ----


def test_cancel_signal_and_answer(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    run_id = ask("submit", "checkout")
    run = gateway.runs[run_id]
    ask("signal", run_id, "go/now", {"a": 1}, signal_id="s1")
    assert run.signals == [("go/now", {"a": 1})]
    assert gateway.last.headers["idempotency-key"] == "s1"
    ask("resolve_wait", run_id, "1", True)
    assert run.answers == {"1": True}
    ask("cancel", run_id, "no longer wanted")
    assert gateway.last.body == {"reason": "no longer wanted"}
    with pytest.raises(RunTerminal, match="it has ended"):
        ask("cancel", run_id)


# ---- errors ----


def test_errors_are_what_they_were(asking: tuple[FakeGateway, Ask]) -> None:
    _, ask = asking
    with pytest.raises(UnknownComponent, match="did you mean known") as unknown:
        ask("run", "unknown")
    assert unknown.value.details == {"nearest": ["known"], "status": 404}
    with pytest.raises(InvalidInput, match="missing") as invalid:
        ask("run", "picky")
    assert invalid.value.details["field"] == "order.id"


def test_an_answer_that_is_not_the_engines(asking: tuple[FakeGateway, Ask]) -> None:
    gateway, ask = asking
    gateway.instead = b"<html>Bad Gateway</html>"
    with pytest.raises(EngineError, match="Bad Gateway") as caught:
        ask("status", "run-0")
    assert caught.value.code == "unexpected_answer"


def test_a_gateway_that_is_not_there() -> None:
    with serving() as (_, url):
        pass
    with pytest.raises(ConnectionLost, match="is the engine running"):
        Client(url).status("run-0")


def test_a_run_that_takes_longer_than_the_caller_waits() -> None:
    with serving() as (gateway, url):
        never = threading.Event()
        gateway.answer = lambda asked: (200, never.wait(1))  # type: ignore[method-assign]
        with pytest.raises(TimeoutError, match="goes on"):
            Client(url).run("checkout", timeout=0.01)
        never.set()


@pytest.mark.parametrize("url", ["127.0.0.1:34181", "localhost", "ftp://host", ""])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_base_url_without_a_scheme_shows_the_fix(client: Any, url: str) -> None:
    with pytest.raises(InvalidEndpoint, match="write http://"):
        client(url)
