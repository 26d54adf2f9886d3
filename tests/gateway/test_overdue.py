"""Which connections are given up, and when: the sweep is told the time, so nobody has to wait."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from engine.base.clock import ManualClock
from engine.gateway.api.exchange import Exchange, Response
from engine.gateway.door.bodies import Bodies
from engine.gateway.door.metrics import GatewayMetrics
from engine.gateway.settings import GatewaySettings
from engine.gateway.transport.connections import Connections, open_listeners
from engine.gateway.transport.plain import PlainConnection, Shared

SETTINGS = GatewaySettings(
    sweep_s=3_600, keep_alive_s=75, read_stall_s_max=30, write_stall_s_max=60
)
REQUEST = b"POST /v1/workflows/w/run HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n"
LARGE = b"x" * 20_000_000


class Place:
    """One client connected to connections that are swept by hand; the answer waits for `answer`."""

    def __init__(self, client: trio.SocketStream, connections: Connections) -> None:
        self.client = client
        self.connections = connections
        self.asked = trio.Event()
        self.answer = trio.Event()
        self.body = b"ok"
        self.handed_over = b""

    async def respond(self, exchange: Exchange) -> Response:
        exchange.payers = (("somebody", 1_000),)
        await exchange.read(100)
        self.asked.set()
        await self.answer.wait()
        return Response(self.body)

    async def sent(self, data: bytes) -> None:
        await self.client.send_all(data)
        await trio.testing.wait_all_tasks_blocked(0.01)

    async def given_up_after(self, seconds: float) -> bool:
        return self.connections.sweep_once(trio.current_time() + seconds) == 1


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with _place() as found:
        yield found


@asynccontextmanager
async def _place() -> AsyncIterator[Place]:
    found: list[Place] = []

    async def answer(exchange: Exchange) -> Response | None:
        return await found[0].respond(exchange)

    async def take(connection: PlainConnection, read_already: bytes) -> None:
        assert connection.peer == "127.0.0.1"
        found[0].handed_over = read_already
        await trio.sleep_forever()

    shared = Shared(SETTINGS, ManualClock(), answer, Bodies(bytes_max=1_000))
    connections = Connections(shared, GatewayMetrics(), take)
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connections.serve, listeners, trio.Event())
        stream = await trio.open_tcp_stream("127.0.0.1", listeners[0].getsockname()[1])
        async with stream:
            found.append(Place(stream, connections))
            await found[0].sent(b"")
            with trio.fail_after(20):
                yield found[0]
        nursery.cancel_scope.cancel()
    for listener in listeners:
        listener.close()


async def test_idle(place: Place) -> None:
    assert not await place.given_up_after(74)
    assert await place.given_up_after(76)
    assert await place.client.receive_some() == b""


async def test_idle_again_after_an_answer(place: Place) -> None:
    place.answer.set()
    await place.sent(REQUEST + b"{}")
    assert (await place.client.receive_some()).endswith(b"ok")
    assert not await place.given_up_after(74)
    assert await place.given_up_after(76)


@pytest.mark.parametrize("data", [b"P", REQUEST[:40], REQUEST, REQUEST + b"{"])
async def test_half_a_request(place: Place, data: bytes) -> None:
    await place.sent(data)
    assert not await place.given_up_after(29)
    assert await place.given_up_after(31)
    assert await place.client.receive_some() == b""


async def test_a_head_has_one_deadline_however_it_drips(place: Place) -> None:
    begun = trio.current_time()
    await place.sent(b"P")
    for _ in range(3):
        assert place.connections.sweep_once(begun + 29) == 0
        await place.sent(b"O")
    limit = trio.current_time() + 30
    await place.sent(b"S")
    assert place.connections.sweep_once(limit) == 1


async def test_a_body_that_goes_on_is_waited_for(place: Place) -> None:
    await place.sent(REQUEST)
    first = trio.current_time()
    await place.sent(b"{")
    assert place.connections.sweep_once(first + 30) == 0


async def test_a_handler_may_take_as_long_as_it_takes(place: Place) -> None:
    await place.sent(REQUEST + b"{}")
    await place.asked.wait()
    assert not await place.given_up_after(1_000_000)
    place.answer.set()
    assert (await place.client.receive_some()).endswith(b"ok")


async def test_who_is_gone_is_not_waited_for(place: Place) -> None:
    await place.sent(REQUEST + b"{}")
    await place.client.send_eof()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert not await place.given_up_after(3_599)
    assert await place.given_up_after(3_601)


async def test_the_next_request_does_not_look_like_going(place: Place) -> None:
    await place.sent(REQUEST + b"{}" + REQUEST)
    assert not await place.given_up_after(3_601)


async def test_who_does_not_read(place: Place) -> None:
    place.body = LARGE
    place.answer.set()
    await place.sent(REQUEST + b"{}")
    assert not await place.given_up_after(59)
    assert await place.given_up_after(61)


async def test_who_was_handed_over_is_looked_after_elsewhere(place: Place) -> None:
    await place.sent(b"GET / HTTP/1.0\r\n\r\n")
    assert place.handed_over == b"GET / HTTP/1.0\r\n\r\n"
    assert not await place.given_up_after(1_000_000)
