"""Connections: what a client may do to one, and what becomes of those that misbehave."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import trio.lowlevel
import trio.testing

from engine.base.binding import holder_of
from engine.base.errors import AddressInUse, InvalidSettings
from engine.gateway.settings import WebhookSettings
from engine.gateway.transport import connections
from engine.gateway.transport.connections import open_listeners
from tests.gateway.client import NOT_PLAIN
from tests.gateway.conftest import RunningGateway, running
from tests.gateway.fake_handle import ECHO, HOLD

STATUS = b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n"
OK = b'{"status":"ok"}'


def run_request(body: bytes, *headers: bytes, length: int | None = None) -> bytes:
    lines = [
        b"POST /v1/workflows/%b/run HTTP/1.1" % ECHO.encode(),
        b"Host: h",
        b"Content-Length: %d" % (len(body) if length is None else length),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


@asynccontextmanager
async def opened(gateway: RunningGateway) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
        yield stream


async def read_until(stream: trio.SocketStream, wanted: bytes, times: int = 1) -> bytes:
    data = b""
    while data.count(wanted) < times:
        piece = await stream.receive_some()
        assert piece, data
        data += piece
    return data


async def read_to_end(stream: trio.SocketStream) -> bytes:
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


async def until(condition: Callable[[], object]) -> None:
    """The gateway's tasks run on the same loop as the test."""
    while not condition():
        await trio.lowlevel.checkpoint()


async def until_nobody_is_connected(gateway: RunningGateway) -> None:
    while await gateway.measured("engine_http_connections") > 1:  # that is the one that asks
        await trio.lowlevel.checkpoint()


# ---- reading requests ----


async def test_pipelined_requests_are_answered_in_order(gateway: RunningGateway) -> None:
    async with opened(gateway) as stream:
        await stream.send_all(b"".join(run_request(b"%d" % n) for n in range(50)) + STATUS)
        data = await read_until(stream, OK)
    outputs = [int(part.split(b"}")[0]) for part in data.split(b'"output":')[1:]]
    assert outputs == list(range(50))


@pytest.mark.parametrize("size", [1, 2, 7, 60])
async def test_a_request_may_come_in_pieces(gateway: RunningGateway, size: int) -> None:
    data = run_request(b'{"order":12}') + STATUS
    async with opened(gateway) as stream:
        for first in range(0, len(data), size):
            await stream.send_all(data[first : first + size])
            await trio.lowlevel.checkpoint()
        answers = await read_until(stream, OK)
    assert b'"output":{"order":12}' in answers
    assert await gateway.measured("engine_http_handed_over_total") == 0


async def test_a_large_body_comes_back(gateway: RunningGateway) -> None:
    text = "x" * 2_000_000
    async with gateway.client() as client, gateway.client(NOT_PLAIN) as other:
        for one in (client, other):
            answer = await one.post(f"/v1/workflows/{ECHO}/run", text)
            assert answer.json["output"] == text


async def test_one_connection_may_ask_for_everything(gateway: RunningGateway) -> None:
    async with gateway.client() as client:
        for _ in range(3):
            assert (await client.post(f"/v1/workflows/{ECHO}/run", 1)).status == 200
            assert (await client.get("/v1/runs")).status == 200
            assert (await client.get("/nowhere")).status == 404
    assert await gateway.measured("engine_http_handed_over_total") == 0


async def test_close_is_answered_with_close(gateway: RunningGateway) -> None:
    async with opened(gateway) as stream:
        await stream.send_all(run_request(b"1", b"Connection: close"))
        data = await read_to_end(stream)
    assert b"connection: close\r\n" in data
    assert b'"output":1' in data


async def test_a_body_nobody_wants_is_dropped(gateway: RunningGateway) -> None:
    wrong = b"POST /v1/workflowz/x/run HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n"
    async with opened(gateway) as stream:
        await stream.send_all(wrong)
        await read_until(stream, b"unknown_route")
        await stream.send_all(b"x" * 20_000 + STATUS)
        await read_until(stream, OK)


async def test_who_sends_too_much_reads_why() -> None:
    async with running(body_bytes_max=100_000) as gateway, opened(gateway) as stream:
        await stream.send_all(run_request(b"x" * 100_000, length=1_000_000_000))
        data = await read_to_end(stream)
    assert data.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close\r\n" in data
    assert b"body_too_large" in data


# ---- what is not plain ----


@pytest.mark.parametrize(
    ("request_bytes", "wanted"),
    [
        (b"GET /healthz HTTP/1.1\nHost: h\n\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\nHost: h\n\r\n", b"200"),
        (b"\r\nGET /healthz HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),
        (b"GET ?/v1/runs HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET http://h/v1/runs HTTP/1.1\r\nHost: h\r\n\r\n", b"200"),
        (b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", b"404"),
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\nA : 1\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"400"),
        (b"GET /" + b"x" * 20_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 20_000, b"431"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", b"404"),
    ],
)
async def test_odd_heads_are_left_to_hypercorn(
    gateway: RunningGateway, request_bytes: bytes, wanted: bytes
) -> None:
    async with opened(gateway) as stream:
        await stream.send_all(request_bytes)
        data = await read_until(stream, b"\r\n\r\n")
    assert data.split()[1] == wanted
    assert await gateway.measured("engine_http_handed_over_total") == 1


async def test_a_chunked_body(gateway: RunningGateway) -> None:
    head = run_request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    async with opened(gateway) as stream:
        await stream.send_all(head + b'6\r\n{"a":1\r\n1\r\n}\r\n0\r\n\r\n')
        assert b'"output":{"a":1}' in await read_until(stream, b"}}")
        await stream.send_all(STATUS)
        await read_until(stream, OK)


async def test_a_chunked_body_over_the_bound_is_answered() -> None:
    head = run_request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunk = b"1000\r\n%b\r\n" % (b"x" * 0x1000)
    async with running(body_bytes_max=100_000) as gateway:
        async with opened(gateway) as stream:
            await stream.send_all(head + chunk * 40)
            data = await read_until(stream, b"}")
            assert data.startswith(b"HTTP/1.1 413 ")
        await until_nobody_is_connected(gateway)


async def test_expect_continue(gateway: RunningGateway) -> None:
    async with opened(gateway) as stream:
        await stream.send_all(run_request(b"", b"Expect: 100-continue", length=2))
        await read_until(stream, b"HTTP/1.1 100 \r\n")
        await stream.send_all(b"42")
        assert b'"output":42' in await read_until(stream, b"}")


async def test_http_2(gateway: RunningGateway) -> None:
    http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    http.initiate_connection()
    common = [(":scheme", "http"), (":authority", "h")]
    http.send_headers(1, [(":method", "GET"), (":path", "/v1/runs"), *common], end_stream=True)
    path = f"/v1/workflows/{ECHO}/run"
    http.send_headers(3, [(":method", "POST"), (":path", path), *common])
    http.send_data(3, b"[7]", end_stream=True)
    bodies = {1: b"", 3: b""}
    ended: set[int | None] = set()
    async with opened(gateway) as stream:
        while ended != {1, 3}:
            await stream.send_all(http.data_to_send())
            for event in http.receive_data(await stream.receive_some()):
                if isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id or 0] += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    ended.add(event.stream_id)
    assert b'"runs":[' in bodies[1]
    assert b'"output":[7]' in bodies[3]


# ---- clients that go, or stay for too long ----

QUICK = {"sweep_s": 0.01}


async def test_who_goes_while_a_run_goes_on_is_noticed() -> None:
    async with running(**QUICK) as gateway:
        for headers in ([], [NOT_PLAIN]):
            async with gateway.client(*headers) as client:
                await client.send("POST", f"/v1/workflows/{HOLD}/run")
                await until(lambda: gateway.handle.waiting == 1)
            await until(lambda: gateway.handle.waiting == 0)


async def test_an_idle_connection_is_closed() -> None:
    async with running(**QUICK, keep_alive_s=0.05) as gateway, opened(gateway) as stream:
        await stream.send_all(STATUS)
        assert (await read_to_end(stream)).endswith(OK)


@pytest.mark.parametrize("sent", [STATUS[:20], run_request(b"12", length=10)])
async def test_a_request_that_does_not_go_on_is_given_up(sent: bytes) -> None:
    async with running(**QUICK, read_stall_s_max=0.05) as gateway, opened(gateway) as stream:
        await stream.send_all(sent)
        assert await read_to_end(stream) == b""


@pytest.mark.parametrize("path", [f"/v1/workflows/{ECHO}/run", f"/v1/workflows/{ECHO}/batch"])
async def test_a_chunked_body_that_does_not_go_on_is_given_up(path: str) -> None:
    async with running(**QUICK, read_stall_s_max=0.05) as gateway, opened(gateway) as stream:
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        await stream.send_all(head.encode() + b"5\r\n[1, 2")
        data = await read_to_end(stream)
    assert data.startswith(b"HTTP/1.1 400 ")
    assert b"send it again" in data


@pytest.mark.parametrize("header", [b"A: b", b"TE: trailers"])
async def test_who_does_not_read_is_given_up(header: bytes) -> None:
    text = b'"%b"' % (b"x" * 3_000_000)
    async with running(**QUICK, write_stall_s_max=0.05) as gateway:
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await sock.connect(("127.0.0.1", gateway.port))
        async with trio.SocketStream(sock) as stream:
            with suppress(trio.BrokenResourceError):
                for _ in range(4):  # more than the kernel holds for who does not read
                    await stream.send_all(run_request(text, header))
            await until_nobody_is_connected(gateway)


@pytest.mark.parametrize(
    "bounds",
    [
        {"connections_max": 4},  # half of them from one address
        {"connections_per_peer_max": 2},
        {"connections_max": 2, "connections_per_peer_max": 100},
    ],
)
async def test_one_connection_too_many(bounds: dict[str, int]) -> None:
    async with running(**bounds) as gateway:
        async with gateway.client() as first, gateway.client(NOT_PLAIN) as second:
            for client in (first, second):
                await client.send("POST", f"/v1/workflows/{HOLD}/run")
            await until(lambda: gateway.handle.waiting == 2)
            async with opened(gateway) as third:
                data = await read_to_end(third)
        assert data.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in data
        await until_nobody_is_connected(gateway)
        async with gateway.client() as client:
            assert (await client.get("/healthz")).status == 200


@pytest.mark.parametrize(
    "bounds",
    [
        {"connections_max": 40},
        {"connections_per_peer_max": 20},
        {"connections_max": 20, "connections_per_peer_max": 100},
    ],
)
async def test_who_has_nothing_to_be_answered_gives_way(bounds: dict[str, int]) -> None:
    """Slow heads on either way in, idle ones, bodies of strangers: none keeps anybody out, and
    nobody loses an answer for them."""
    hook = WebhookSettings(name="hook", secret="s" * 16, tenant_id="dev", component=ECHO)
    hub = {"X-Hub-Signature-256": "sha256=" + "0" * 64}
    async with running(**bounds, webhooks=(hook,)) as gateway, AsyncExitStack() as stack:
        busy = await stack.enter_async_context(gateway.client())
        await busy.send("POST", f"/v1/workflows/{HOLD}/run")
        await until(lambda: gateway.handle.waiting == 1)
        held = gateway.handle.only_run()
        for number in range(100):
            client = await stack.enter_async_context(gateway.client())
            if number % 4 == 0:
                await client.stream.send_all(b"GET /healthz HTTP/1.1\r\nHo")
            elif number % 4 == 1:
                await client.stream.send_all(STATUS.replace(b"Host", b"TE: x\r\nHost") + b"GET /")
            elif number % 4 == 2:
                await client.send_head("POST", "/v1/webhooks/hook", length=9, headers=hub)
        for _ in range(3):
            other = await stack.enter_async_context(gateway.client())
            assert (await other.post(f"/v1/workflows/{ECHO}/run", 1)).status == 200
        gateway.handle.complete(held, b"1")
        assert (await busy.read_head())[0] == 200
        assert await gateway.measured("engine_http_given_way_total") > 80


async def test_no_room_for_a_connection_is_a_pause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "_NO_RESOURCES_PAUSE_S", 0)
    accept = socket.socket.accept
    failures = [OSError(24, "too many open files"), OSError(103, "gone already")]

    def failing(sock: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop(0)
        return accept(sock)

    async with running() as gateway:
        monkeypatch.setattr(socket.socket, "accept", failing)
        async with gateway.client() as client:
            assert (await client.get("/healthz")).status == 200
    assert not failures
    assert "too many open files" in caplog.text


# ---- starting and stopping ----


async def test_stop_lets_requests_finish() -> None:
    async with running() as gateway:
        async with gateway.client() as client, gateway.client() as idle:
            assert (await idle.get("/healthz")).status == 200
            await client.send("POST", f"/v1/workflows/{HOLD}/run")
            await until(lambda: gateway.handle.waiting == 1)
            gateway.stop.set()
            assert await idle.stream.receive_some() == b""
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", gateway.port)
            assert not gateway.stopped.is_set()
            run = gateway.handle.only_run()
            gateway.handle.complete(run, b"1")
            status, headers = await client.read_head()
            assert (status, headers["connection"]) == (200, "close")
        await gateway.stopped.wait()


async def test_stop_does_not_wait_for_ever() -> None:
    async with (
        running(graceful_stop_s=0.05) as gateway,
        gateway.client() as client,
        gateway.client(NOT_PLAIN) as other,
    ):
        for one in (client, other):
            await one.send("POST", f"/v1/workflows/{HOLD}/run")
        await until(lambda: gateway.handle.waiting == 2)
        gateway.stop.set()
        await gateway.stopped.wait()
        assert gateway.handle.waiting == 0


async def test_a_stopping_gateway_is_not_ready(gateway: RunningGateway) -> None:
    async with gateway.client() as client:
        await client.send("GET", "/readyz")
        gateway.stop.set()
        status, _ = await client.read_head()
    assert status in (200, 503)  # it was asked before or after
    await gateway.stopped.wait()


async def test_localhost_is_one_port_on_all_its_addresses() -> None:
    listeners = await open_listeners("localhost", 0)
    ports = {listener.getsockname()[1] for listener in listeners}
    for listener in listeners:
        listener.close()
    assert len(ports) == 1


async def test_an_address_in_use_is_said(gateway: RunningGateway) -> None:
    with pytest.raises(AddressInUse, match=f"{gateway.port}.*another process listens .*--http"):
        await open_listeners("127.0.0.1", gateway.port)


@pytest.fixture
def outgoing() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from here, as any may have one of the ports that the defaults name; and its
    other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        # With a port that no other connection has, be it one that is over.
        here = ("127.0.0.1", 0)
        client = socket.create_connection(server.getsockname(), source_address=here)
        accepted, _ = server.accept()
        with client, accepted:
            yield client, accepted


async def test_a_port_that_a_connection_has_is_waited_for(
    outgoing: tuple[socket.socket, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    client, _ = outgoing
    port = client.getsockname()[1]
    with pytest.raises(AddressInUse, match=f"{port}.*no process listens there, .*--http"):
        await open_listeners("127.0.0.1", port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_reset_after, client, 1.0)
        (listener,) = await open_listeners("127.0.0.1", port)
        listener.close()


async def test_a_connection_that_has_ended_keeps_its_port_for_a_while(
    outgoing: tuple[socket.socket, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    client, accepted = outgoing
    port = client.getsockname()[1]
    client.close()
    accepted.close()
    await until(lambda: "has ended" in holder_of(port))
    with pytest.raises(AddressInUse, match=f"{port}.*a connection that has ended keeps that port"):
        await open_listeners("127.0.0.1", port)


async def _reset_after(sock: socket.socket, seconds: float) -> None:
    await trio.sleep(seconds)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_that_is_not_ours_is_said(host: str) -> None:
    with pytest.raises(InvalidSettings, match=r"cannot listen.*--http"):
        await open_listeners(host, 0)
