"""Event streams: order, resuming, heartbeats, ends, and readers that are slow or gone."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import h11
import msgspec
import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from engine.base.errors import Gone, JournalBusy
from engine.base.ids import RunId
from engine.gateway.handlers.streams import event_bytes
from engine.model.context import RequestContext
from engine.model.payloads import SignalReceived
from engine.model.views import RunEvent
from tests.gateway.client import NOT_PLAIN, Event, event_of
from tests.gateway.conftest import CONTEXT, Connect, RunningGateway, running
from tests.gateway.fake_handle import ASK, ECHO, FAIL, HOLD, FakeHandle, FakeRun


async def started(gateway: RunningGateway, component: str) -> tuple[FakeRun, str]:
    async with gateway.client() as client:
        answer = await client.post(f"/v1/workflows/{component}/submit")
    run_id = answer.json["run_id"]
    return gateway.handle.find(CONTEXT, RunId(bytes.fromhex(run_id.replace("-", "")))), run_id


# ---- what is streamed ----


async def test_stream_starts_a_run_and_follows_it_to_its_end(connect: Connect) -> None:
    async with connect() as client:
        await client.send("POST", f"/v1/workflows/{ECHO}/stream", b'{"order":12}')
        status, headers = await client.read_head()
        events = await client.read_events()
        result = await client.get(f"/v1/result/{headers['x-run-id']}")
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert headers["cache-control"] == "no-store"
    assert [(event.id, event.name) for event in events] == [(0, "run.queued"), (1, "run.completed")]
    assert result.json["output"] == {"order": 12}


async def test_events_come_as_they_happen(gateway: RunningGateway, connect: Connect) -> None:
    run, run_id = await started(gateway, HOLD)
    async with connect() as client:
        await client.send("GET", f"/v1/runs/{run_id}/events")
        await client.read_head()
        assert [event.name for event in await client.read_events(1)] == ["run.queued"]
        gateway.handle.emit(run, "output.delta", b'{"text":"a"}')
        assert await client.read_events(1) == [Event(None, "output.delta", {"text": "a"})]
        gateway.handle.append(run, SignalReceived(signal_id="s", name="n"))
        gateway.handle.complete(run, b"1")
        rest = [(event.id, event.name) for event in await client.read_events()]
        assert (await client.get("/healthz")).status == 200
    assert rest == [(1, "workflow.signal.received"), (2, "run.completed")]


@pytest.mark.parametrize("by_header", [True, False])
async def test_resuming_loses_and_repeats_nothing(
    gateway: RunningGateway, connect: Connect, by_header: bool
) -> None:
    run, run_id = await started(gateway, HOLD)
    for number in range(20):
        gateway.handle.append(run, SignalReceived(signal_id=str(number), name="n"))
    found: list[int | None] = []
    for connection in range(4):
        path, headers = f"/v1/runs/{run_id}/events", {}
        if found and by_header:
            headers = {"Last-Event-ID": str(found[-1])}
        elif found:
            path = f"{path}?after={found[-1]}"
        async with connect() as client:
            await client.send("GET", path, headers=headers)
            await client.read_head()
            if connection == 2:
                gateway.handle.complete(run, b"1")
            found += [event.id for event in await client.read_events(6 if connection < 3 else None)]
    assert found == list(range(22))


async def test_a_reader_that_has_everything_is_told_to_stop(
    gateway: RunningGateway, connect: Connect
) -> None:
    """A browser connects again whenever a stream ends, unless it is answered with 204."""
    _, run_id = await started(gateway, ECHO)
    async with connect() as client:
        answer = await client.get(f"/v1/runs/{run_id}/events", Last_Event_ID="1")
        assert (answer.status, answer.body) == (204, b"")
        assert not {"content-type", "content-length", "transfer-encoding"} & set(answer.headers)
        answer = await client.get(f"/v1/runs/{run_id}/events", Last_Event_ID="0")
        assert answer.body.startswith(b"id: 1\nevent: run.completed\n")
        answer = await client.get(f"/v1/runs/{run_id}/events", Last_Event_ID="")
        assert answer.body.startswith(b"id: 0\n")


async def test_a_failed_run_ends_its_stream(gateway: RunningGateway) -> None:
    _, run_id = await started(gateway, FAIL)
    async with gateway.client() as client:
        answer = await client.get(f"/v1/runs/{run_id}/events")
    assert answer.body.count(b"event: ") == 2
    assert b"event: run.failed\n" in answer.body


# ---- what is refused ----


async def test_a_cursor_that_is_gone(gateway: RunningGateway, connect: Connect) -> None:
    run, run_id = await started(gateway, ASK)
    run.first_offset = 5
    async with connect() as client:
        answer = await client.get(f"/v1/runs/{run_id}/events", Last_Event_ID="1")
    assert (answer.status, answer.json["code"]) == (410, "gone")


@pytest.mark.parametrize("cursor", ["-1", "1.5", "x", "99999999999999999999", "\xb2"])
async def test_a_cursor_that_is_none(
    gateway: RunningGateway, connect: Connect, cursor: str
) -> None:
    _, run_id = await started(gateway, ASK)
    async with connect() as client:
        answer = await client.get(f"/v1/runs/{run_id}/events", Last_Event_ID=cursor)
    assert (answer.status, answer.json["code"]) == (422, "invalid_input")
    assert answer.json["errors"][0]["field"] == "Last-Event-ID"


class BreakingHandle(FakeHandle):
    """Its streams break after one event."""

    failure: Exception = Gone("the events that follow are not kept; read from the first")

    @asynccontextmanager
    async def events(
        self, context: RequestContext, run_id: RunId, after_offset: int | None
    ) -> AsyncIterator[AsyncIterator[RunEvent]]:
        yield self._one_and_then_the_failure()

    async def _one_and_then_the_failure(self) -> AsyncIterator[RunEvent]:
        yield RunEvent(0, "run.queued", b"{}")
        raise self.failure


async def test_an_error_under_way_is_an_event_and_the_end(connect: Connect) -> None:
    async with running(handle=BreakingHandle) as gateway:
        for headers in ([], [NOT_PLAIN]):
            async with gateway.client(*headers) as client:
                await client.send("POST", f"/v1/workflows/{HOLD}/stream")
                await client.read_head()
                events = await client.read_events()
                assert [event.name for event in events] == ["run.queued", "error"]
                assert events[1].data["code"] == "gone"


async def test_a_defect_under_way_breaks_the_stream_off(caplog: pytest.LogCaptureFixture) -> None:
    """The reader must be able to tell it from the end."""
    async with running(handle=BreakingHandle) as gateway:
        gateway.handle.failure = ZeroDivisionError("a defect")
        for headers in ([], [NOT_PLAIN]):
            async with gateway.client(*headers) as client:
                await client.send("POST", f"/v1/workflows/{HOLD}/stream")
                await client.read_head()
                assert [event.name for event in await client.read_events(1)] == ["run.queued"]
                with pytest.raises(h11.RemoteProtocolError, match="peer closed connection"):
                    await client.read_event()
        assert "a defect" in caplog.text
        async with gateway.client() as client:
            assert (await client.get("/healthz")).status == 200


async def test_busy_is_said_before_the_stream_begins(
    gateway: RunningGateway, connect: Connect
) -> None:
    gateway.handle.next_failure = JournalBusy("come again in a moment, please")
    async with connect() as client:
        answer = await client.post(f"/v1/workflows/{HOLD}/stream")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


# ---- heartbeats, and readers that are slow or gone ----


async def test_a_silent_stream_has_heartbeats() -> None:
    async with running(heartbeat_s=0.01) as gateway:
        for headers in ([], [NOT_PLAIN]):
            run, run_id = await started(gateway, HOLD)
            async with gateway.client(*headers) as client:
                await client.send("GET", f"/v1/runs/{run_id}/events")
                await client.read_head()
                assert [event.name for event in await client.read_events(1)] == ["run.queued"]
                assert [await client.read_block() for _ in range(3)] == [b": "] * 3
                gateway.handle.complete(run, b"1")
                assert [event.name for event in await client.read_events()] == ["run.completed"]


async def test_heartbeats_wait_their_time(gateway: RunningGateway) -> None:
    """With the 15 s of the default, none comes while a test runs."""
    _, run_id = await started(gateway, HOLD)
    async with gateway.client() as client:
        await client.send("GET", f"/v1/runs/{run_id}/events")
        await client.read_head()
        await client.read_block()
        with trio.move_on_after(0.05) as scope:
            await client.read_block()
    assert scope.cancelled_caught


async def test_a_reader_that_is_gone_is_noticed() -> None:
    async with running(sweep_s=0.01) as gateway:
        _, run_id = await started(gateway, HOLD)
        for headers in ([], [NOT_PLAIN]):
            async with gateway.client(*headers) as client:
                await client.send("GET", f"/v1/runs/{run_id}/events")
                await client.read_head()
                assert await gateway.measured("engine_http_streams") == 1
            while await gateway.measured("engine_http_streams"):
                pass


class EndlessHandle(FakeHandle):
    """Its streams never end; counts what was taken from them."""

    taken = 0

    @asynccontextmanager
    async def events(
        self, context: RequestContext, run_id: RunId, after_offset: int | None
    ) -> AsyncIterator[AsyncIterator[RunEvent]]:
        async with aclosing(self._endless()) as found:
            yield found

    async def _endless(self) -> AsyncGenerator[RunEvent, None]:
        while True:
            self.taken += 1
            yield RunEvent(self.taken, "output.delta", b'"%b"' % (b"x" * 10_000))


async def test_a_slow_reader_holds_no_more_than_the_sockets_do() -> None:
    async with running(handle=EndlessHandle) as gateway, gateway.client() as client:
        handle = gateway.handle
        await client.send("POST", f"/v1/workflows/{HOLD}/stream")
        await client.read_head()
        taken = -1
        while taken != handle.taken:
            taken = handle.taken
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert taken * 10_000 < 20_000_000
        events = await client.read_events(taken)
        assert [event.id for event in events] == list(range(1, taken + 1))


async def test_many_streams_of_one_run(gateway: RunningGateway) -> None:
    run, run_id = await started(gateway, HOLD)
    found: list[list[int | None]] = []

    async def read(task_status: trio.TaskStatus[None]) -> None:
        async with gateway.client() as client:
            await client.send("GET", f"/v1/runs/{run_id}/events")
            await client.read_head()
            task_status.started()
            found.append([event.id for event in await client.read_events()])

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            await nursery.start(read)
        for number in range(20):
            gateway.handle.append(run, SignalReceived(signal_id=str(number), name="n"))
            await trio.lowlevel.checkpoint()
        gateway.handle.complete(run, b"1")
    assert found == [list(range(22))] * 100


# ---- the form ----


@given(st.text(max_size=8), st.text(max_size=20), st.none() | st.integers(0, 10**12))
def test_no_text_breaks_the_form(name: str, text: str, offset: int | None) -> None:
    event = RunEvent(offset, name, msgspec.json.encode(text))
    block = event_bytes(event)
    assert block.endswith(b"\n\n")
    assert b"\n\n" not in block[:-2]
    assert b"\r" not in block
    read = event_of(block[:-2])
    assert (read.id, read.data) == (offset, text)


def test_json_on_several_lines_stays_one_event() -> None:
    data = b'{\n "a": 1,\r\n\n "b": 2\n}'
    block = event_bytes(RunEvent(7, "run\n.x", data))
    assert b"\n\n" not in block[:-2]
    assert event_of(block[:-2]) == Event(7, "run.x", {"a": 1, "b": 2})


def blocks_of(stream: bytes) -> list[list[tuple[bytes, bytes]]]:
    """What the standard says a reader makes of a stream: a line ends at CRLF, LF or CR, an empty
    line ends an event, one space after the colon is dropped."""
    blocks: list[list[tuple[bytes, bytes]]] = [[]]
    for line in re.split(rb"\r\n|\n|\r", stream):
        if line:
            field, _, value = line.partition(b":")
            blocks[-1].append((field, value.removeprefix(b" ")))
        elif blocks[-1]:
            blocks.append([])
    return [block for block in blocks if block]


# What ends lines and events, and what looks like one, in every order; and any bytes at all.
_SPOKEN = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b"event: run.failed", b"data: {}", b"id: 9", b":", b" "]
    )
    | st.binary(max_size=6),
    max_size=12,
).map(b"".join)


@given(_SPOKEN, _SPOKEN, st.none() | st.integers(0, 10**12))
@example(b"x", b'[1,\r2,\r\r{"a":\r3}]', 1)
@example(b"x", b'"x"\r\revent: run.failed\rdata: {}', None)
def test_nothing_that_is_said_ends_or_forges_an_event(
    name: bytes, data: bytes, offset: int | None
) -> None:
    event = RunEvent(offset, "n" + name.decode("latin-1"), data)
    after = RunEvent(7, "run.completed", b"1")
    first, second = blocks_of(event_bytes(event) + event_bytes(after))
    fields = [field for field, _ in first]
    heads = [b"event"] if offset is None else [b"id", b"event"]
    assert fields[: len(heads)] == heads
    assert set(fields[len(heads) :]) == {b"data"}
    said = [value for field, value in first if field == b"data"]
    assert said == (re.split(rb"\r\n|\n|\r", data) if not data.endswith((b"\r", b"\n")) else said)
    assert second == [(b"id", b"7"), (b"event", b"run.completed"), (b"data", b"1")]
