"""`runs:batch`: many starts a request, in order, a bounded number a commit."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import JournalBusy
from engine.base.ids import RunId
from engine.gateway.api.exchange import Exchange
from engine.gateway.door import door
from engine.gateway.door.bodies import Bodies
from engine.gateway.handlers.intake import LineReader
from engine.gateway.settings import batch_chunk_starts_max
from engine.gateway.transport import plain
from tests.gateway.client import NOT_PLAIN, Answer, Client
from tests.gateway.conftest import CONTEXT, OTHER_KEY, Connect, RunningGateway, running
from tests.gateway.fake_handle import ECHO, HOLD

PATH = "/v1/runs:batch"


def lines_of(*lines: Any) -> bytes:
    return b"".join(msgspec.json.encode(line) + b"\n" for line in lines)


async def send(client: Client, body: bytes, **headers: str) -> Answer:
    return await client.ask("POST", PATH, body, headers)


async def test_lines_are_answered_in_order(gateway: RunningGateway, connect: Connect) -> None:
    async with connect() as client:
        answer = await send(
            client, lines_of(*({"component": ECHO, "input": n} for n in range(1_300)))
        )
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert len(answer.lines) == 1_300
    for number, line in enumerate(answer.lines):
        run_id = RunId(bytes.fromhex(line["run_id"].replace("-", "")))
        assert gateway.handle.find(CONTEXT, run_id).request.input == str(number).encode()
    assert 3 <= gateway.handle.commits <= 3 + 1_300 // batch_chunk_starts_max


async def test_a_line_says_everything_a_start_can(gateway: RunningGateway) -> None:
    line = {
        "component": HOLD,
        "kind": "workflow",
        "input": {"order": 12},
        "idempotency_key": "k",
        "deployment_id": "blue",
        "session_id": "s",
        "user_id": "u",
        "trace_id": "t",
        "correlation_id": "c",
        "tags": {"customer": "acme"},
        "prompt_version": "p",
        "start_at_ms": 5,
        "entity_key": "e",
    }
    async with gateway.client() as client:
        first, again, other = [
            await send(client, lines_of(found), X_API_Key=OTHER_KEY)
            for found in (line, line, line | {"input": 1})
        ]
    request = gateway.handle.only_run().request
    said = {name: getattr(request, name) for name in line if name not in ("kind", "input")}
    assert said == {name: line[name] for name in said}
    assert request.input == b'{"order":12}'
    assert again.lines == [{"run_id": first.lines[0]["run_id"], "is_new": False}]
    assert other.lines[0]["code"] == "idempotency_conflict"


async def test_what_a_line_leaves_out_the_headers_say(gateway: RunningGateway) -> None:
    async with gateway.client() as client:
        await send(client, lines_of({"component": HOLD}), X_Deployment_ID="blue", X_Session_ID="s")
    request = gateway.handle.only_run().request
    assert (request.deployment_id, request.session_id) == ("blue", "s")
    assert (request.user_id, request.input, request.kind) == (CONTEXT.user_id, b"null", None)


@pytest.mark.parametrize(
    ("line", "code", "field"),
    [
        (b"{", "malformed_json", None),
        (b'{"component":"x","input":"\xff"}', "malformed_json", None),
        (b"[]", "invalid_input", "line 2"),
        (b"{}", "invalid_input", "component"),
        (b'{"component":""}', "invalid_input", "component"),
        (b'{"component":"x","inptu":1}', "invalid_input", "inptu"),
        (b'{"component":"x","kind":"workflows"}', "invalid_input", "kind"),
        (b'{"component":"x","start_at_ms":-1}', "invalid_input", "start_at_ms"),
        (b'{"component":"x","tags":{"a":1}}', "invalid_input", "tags[...]"),
        (b'{"component":"x","deployment_id":"a/b"}', "invalid_name", "deployment_id"),
        (b'{"component":"shop.ecko"}', "unknown_component", None),
    ],
)
async def test_a_wrong_line_does_not_stop_the_others(
    gateway: RunningGateway, connect: Connect, line: bytes, code: str, field: str | None
) -> None:
    good = lines_of({"component": ECHO})
    async with connect() as client:
        answer = await send(client, good + line + b"\n" + good)
    assert answer.status == 200
    assert [found.get("code") for found in answer.lines] == [None, code, None]
    errors = answer.lines[1].get("errors", [])
    assert [error["field"] for error in errors] == ([field] if field else [])
    if code in ("malformed_json", "invalid_input"):
        assert "line 2" in answer.lines[1]["detail"]


async def test_blank_lines_and_line_ends_of_windows(connect: Connect) -> None:
    async with connect() as client:
        assert (await send(client, b"")).lines == []
        assert (await send(client, b"\n \n\r\n")).lines == []
        body = b'\n{"component":"shop.echo"}\r\n\r\n{"component":"shop.echo"}'
        assert [line["is_new"] for line in (await send(client, body)).lines] == [True, True]


async def test_what_stops_the_whole_is_said_behind_what_was_started(
    gateway: RunningGateway, connect: Connect
) -> None:
    async with connect() as client:
        gateway.handle.next_failure = JournalBusy("come again in a moment, please")
        answer = await send(client, lines_of({"component": ECHO}))
        assert (answer.status, answer.json["code"]) == (503, "journal_busy")
        assert answer.headers["content-type"] == "application/problem+json"

        gateway.handle.fail_in_commits = 2
        body = lines_of(*[{"component": ECHO}] * (2 * batch_chunk_starts_max))
        answer = await send(client, body)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/x-ndjson"
    *started, problem = answer.lines
    assert len(started) == batch_chunk_starts_max
    assert all("run_id" in line for line in started)
    assert problem["code"] == "journal_busy"


async def test_too_many_lines() -> None:
    async with running(batch_lines_max=600) as gateway, gateway.client() as client:
        answer = await send(client, lines_of(*[{"component": ECHO}] * 601))
    assert answer.status == 413
    *started, problem = answer.lines
    assert (len(started), problem["code"]) == (batch_chunk_starts_max, "limit_exceeded")


@pytest.mark.parametrize("headers", [[], [NOT_PLAIN]], ids=["plain", "hypercorn"])
async def test_who_sends_all_before_reading_learns_what_was_started(
    monkeypatch: pytest.MonkeyPatch, headers: list[tuple[str, str]]
) -> None:
    monkeypatch.setattr(plain, "linger_s_max", 0.001)
    line = lines_of({"component": ECHO, "input": "x" * 1_000})
    async with running(batch_lines_max=600) as gateway, gateway.client(*headers) as client:
        answer = await send(client, line * 20_000)  # more than the kernel holds for who waits
    *started, problem = answer.lines
    assert [found["is_new"] for found in started] == [True] * batch_chunk_starts_max
    assert problem["code"] == "limit_exceeded"


async def test_lines_on_their_way_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "bodies_share_bytes_max", 1_000_000)
    async with running() as gateway, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(gateway.client()) for _ in range(3)]
        for client in clients[:2]:
            await client.send_head("POST", PATH, length=2_000_000)
            await client.send_piece(b"x" * 400_000)
        await trio.testing.wait_all_tasks_blocked(0.05)
        await clients[2].send_head("POST", PATH, length=2_000_000)
        await clients[2].send_piece(b"x" * 400_000)
        assert (await clients[2].read_head())[0] == 429


@pytest.mark.parametrize("limit", ["body_bytes_max", "batch_body_bytes_max"])
async def test_too_large(limit: str) -> None:
    line = lines_of({"component": ECHO, "input": "x" * 2_000})
    async with running(**{limit: 1_000}) as gateway, gateway.client() as client:
        answer = await send(client, line)
    assert (answer.status, answer.json["code"]) == (413, "body_too_large")


class Pieces(Exchange):
    """A body in pieces as a network would cut it."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__("POST", PATH, "", {}, None, Bodies(bytes_max=1))
        self._pieces = [piece for piece in pieces if piece]

    async def read(self, bytes_max: int) -> bytes:
        raise AssertionError("lines are read piece by piece")

    async def read_piece(self, bytes_max: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def begin(self, status: int, headers: Any) -> None:
        raise AssertionError

    async def write(self, data: bytes) -> None:
        raise AssertionError


@given(st.lists(st.sampled_from([b"a", b"bcd", b"\n", b"\n\n", b" ", b"e\nf"]), max_size=60))
async def test_lines_do_not_depend_on_how_the_body_is_cut(pieces: list[bytes]) -> None:
    bodies = Bodies(bytes_max=1_000)
    with bodies.holding([("a", 1_000)]) as held:
        reader = LineReader(Pieces(list(pieces)), held, body_bytes_max=1_000, line_bytes_max=1_000)
        found: list[bytes] = []
        while chunk := await reader.next_chunk():
            found += chunk
        assert bodies.held_bytes == 0
    whole = b"".join(pieces)
    assert found == [line for line in whole.split(b"\n") if line.strip()]
