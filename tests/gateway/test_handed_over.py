"""Connections that are not plain: how long they may stay, and what they may send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio
import trio.lowlevel
import trio.testing
from h2.errors import ErrorCodes

from tests.gateway.conftest import REFUSED_KEY, RunningGateway, running
from tests.gateway.fake_handle import ECHO, HOLD

QUICK = {"sweep_s": 0.01}


class Http2:
    """A client that reads only when told to."""

    def __init__(self, stream: trio.SocketStream, window: int | None = None) -> None:
        self.stream = stream
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        if window is not None:
            found = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
            self.http.local_settings = h2.settings.Settings(client=True, initial_values=found)
        self.http.initiate_connection()
        self.next_stream = 1
        self.found: list[h2.events.Event] = []
        self.is_closed = False

    def ask(self, method: str, path: str, *more: tuple[str, str], ends: bool = True) -> int:
        stream_id, self.next_stream = self.next_stream, self.next_stream + 2
        head = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "h")]
        self.http.send_headers(stream_id, [*head, *more], end_stream=ends)
        return stream_id

    async def send(self) -> None:
        await self.stream.send_all(self.http.data_to_send())

    async def write(self, stream_id: int, body: bytes) -> None:
        """All of a body, as the windows open."""
        http = self.http
        while body:
            await self.read(lambda: http.local_flow_control_window(stream_id) > 0)
            room = min(http.local_flow_control_window(stream_id), http.max_outbound_frame_size)
            http.send_data(stream_id, body[:room])
            body = body[room:]
        http.end_stream(stream_id)
        await self.send()

    async def read(self, is_enough: Callable[[], bool]) -> None:
        while not self.is_closed and not is_enough():
            await self.send()
            try:
                data = await self.stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            self.is_closed = not data
            self.found += self.http.receive_data(data) if data else []

    async def answered(self, stream_id: int) -> tuple[int, bytes]:
        await self.read(lambda: stream_id in self._of(h2.events.StreamEnded))
        (status,) = (
            int(dict(event.headers)[b":status"])
            for event in self.found
            if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream_id
        )
        return status, b"".join(
            event.data
            for event in self.found
            if isinstance(event, h2.events.DataReceived) and event.stream_id == stream_id
        )

    async def told_to_go(self) -> int | None:
        """The code with which the connection was ended."""
        await self.read(lambda: False)
        codes = [e.error_code for e in self.found if isinstance(e, h2.events.ConnectionTerminated)]
        return codes[0] if codes else None

    def _of(self, kind: type[Any]) -> set[int]:
        return {event.stream_id for event in self.found if isinstance(event, kind)}

    async def reset(self, stream_id: int) -> int:
        """The code with which the stream was reset."""
        await self.read(lambda: stream_id in self._of(h2.events.StreamReset))
        (code,) = (
            event.error_code
            for event in self.found
            if isinstance(event, h2.events.StreamReset) and event.stream_id == stream_id
        )
        return int(code)


@asynccontextmanager
async def http2(gateway: RunningGateway, window: int | None = None) -> AsyncIterator[Http2]:
    async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
        yield Http2(stream, window)


# ---- how long ----


async def test_a_second_head_that_drips_is_given_up() -> None:
    async with (
        running(**QUICK, read_stall_s_max=0.1) as gateway,
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream,
    ):
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n")
        while b'"ok"' not in await stream.receive_some():
            pass
        await stream.send_all(b"GET /healthz HTTP/1.1\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await _drip(stream, b"A: b\r\n")


async def _drip(stream: trio.SocketStream, piece: bytes) -> None:
    with trio.fail_after(5):
        while True:
            await stream.send_all(piece)
            await trio.sleep(0.02)


@pytest.mark.parametrize("head", [b"GET /healthz HTTP/1.0\r\nA: b", b"PRI * HTTP/2.0\r\n\r\n"])
async def test_idle_ones_are_closed_whatever_they_speak(head: bytes) -> None:
    async with (
        running(**QUICK, keep_alive_s=0.1, read_stall_s_max=0.1) as gateway,
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream,
    ):
        await stream.send_all(head)
        with trio.fail_after(5):
            while await stream.receive_some():
                pass


async def test_pings_do_not_keep_an_idle_connection() -> None:
    async with running(**QUICK, keep_alive_s=0.1) as gateway, http2(gateway) as client:
        with trio.fail_after(5):
            while True:
                client.http.ping(b"12345678")
                try:
                    await client.send()
                except trio.BrokenResourceError:
                    break
                await trio.sleep(0.02)


async def test_a_request_under_way_keeps_it() -> None:
    async with (
        running(**QUICK, keep_alive_s=0.05, read_stall_s_max=0.05) as gateway,
        http2(gateway) as client,
    ):
        stream_id = client.ask("POST", f"/v1/workflows/{HOLD}/run")
        await client.send()
        await trio.sleep(0.3)
        gateway.handle.complete(gateway.handle.only_run(), b"7")
        assert (await client.answered(stream_id))[0] == 200


async def test_a_window_that_stays_shut_costs_the_stream_and_no_more() -> None:
    text = b'"%b"' % (b"x" * 100_000)
    settings = {"write_stall_s_max": 0.1, "body_bytes_per_s_min": 10_000_000}
    async with running(**QUICK, **settings) as gateway, http2(gateway) as client:
        stream_id = client.ask("POST", f"/v1/workflows/{ECHO}/run", ends=False)
        await client.write(stream_id, text)
        assert await client.reset(stream_id) == ErrorCodes.CANCEL
        # The connection's own window is used up too; once it is open the others go on.
        client.http.increment_flow_control_window(1_000_000)
        other = client.ask("GET", "/healthz")
        assert await client.answered(other) == (200, b'{"status":"ok"}')


async def test_a_slow_reader_that_keeps_up_has_its_answer() -> None:
    text = b'"%b"' % (b"x" * 60_000)
    async with running(**QUICK) as gateway, http2(gateway, window=100) as client:
        stream_id = client.ask("POST", f"/v1/workflows/{ECHO}/run", ends=False)
        await client.write(stream_id, text)
        await client.read(lambda: bool(client._of(h2.events.DataReceived)))
        client.http.increment_flow_control_window(100_000, stream_id)
        status, body = await client.answered(stream_id)
    assert status == 200
    assert text in body


async def test_an_answer_before_the_end_of_its_body_costs_nobody_else() -> None:
    async with running() as gateway, http2(gateway) as client:
        refused = client.ask(
            "POST", f"/v1/workflows/{ECHO}/run", ("x-api-key", REFUSED_KEY), ends=False
        )
        running_on = client.ask("POST", f"/v1/workflows/{HOLD}/run")
        await client.send()
        assert (await client.answered(refused))[0] == 401
        # Without blame: there is nothing more to send.
        assert await client.reset(refused) == ErrorCodes.NO_ERROR
        gateway.handle.complete(gateway.handle.only_run(), b"7")
        assert (await client.answered(running_on))[0] == 200


async def test_few_streams_at_once() -> None:
    async with running() as gateway, http2(gateway) as client:
        await client.send()
        await client.read(lambda: client.http.remote_settings.max_concurrent_streams < 1_000)
        assert client.http.remote_settings.max_concurrent_streams == 16


# ---- what they may send ----


def _reset(client: Http2) -> None:
    client.http.reset_stream(client.ask("GET", "/openapi.json"))


def _ping(client: Http2) -> None:
    client.http.ping(b"12345678")


def _settings(client: Http2) -> None:
    client.http.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_535})


def _window(client: Http2) -> None:
    client.http.increment_flow_control_window(1)


def _priority(client: Http2) -> None:
    client.http.prioritize(client.next_stream, weight=3)


@pytest.mark.parametrize("flood", [_reset, _ping, _settings, _window, _priority])
async def test_a_flood_of_frames_that_carry_nothing_ends_its_connection(
    flood: Callable[[Http2], None],
) -> None:
    async with running() as gateway, http2(gateway) as client, gateway.client() as other:
        for _ in range(1_500):
            flood(client)
        await client.send()
        assert await client.told_to_go() == ErrorCodes.ENHANCE_YOUR_CALM
        assert (await other.get("/healthz")).status == 200


async def test_a_head_in_crumbs_ends_its_connection() -> None:
    async with running() as gateway, http2(gateway) as client:
        await client.send()
        head = b"\0\0\1\1\0\0\0\0\1\x82" + b"\0\0\0\x09\0\0\0\0\1" * 1_000
        await client.stream.send_all(head)
        with trio.fail_after(5):
            assert await client.told_to_go() is not None


async def test_who_gives_up_now_and_then_stays() -> None:
    async with running() as gateway, http2(gateway) as client:
        for _ in range(50):
            stream_id = client.ask("POST", f"/v1/workflows/{HOLD}/run")
            await client.send()
            while not gateway.handle.waiting:
                await trio.lowlevel.checkpoint()
            client.http.reset_stream(stream_id)
            await client.send()
            while gateway.handle.waiting:
                await trio.lowlevel.checkpoint()
        assert (await client.answered(client.ask("GET", "/healthz")))[0] == 200


# ---- what they may not become ----


@pytest.mark.parametrize(
    "more", [b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n", b""]
)
async def test_a_wish_for_http_2_is_not_heard(more: bytes) -> None:
    async with (
        running() as gateway,
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream,
    ):
        head = b"GET /healthz HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n"
        await stream.send_all(head + more + b"\r\n")
        data = b""
        while b'"ok"' not in data:
            data += await stream.receive_some()
    assert data.startswith(b"HTTP/1.1 200 ")


async def test_http_2_does_not_begin_in_the_middle() -> None:
    async with (
        running() as gateway,
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream,
    ):
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n")
        while b'"ok"' not in await stream.receive_some():
            pass
        client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        client.initiate_connection()
        await stream.send_all(client.data_to_send())
        data = b""
        with trio.fail_after(5):
            while piece := await stream.receive_some():
                data += piece
    assert data[3:4] != b"\x04"  # not a SETTINGS frame
    assert not data or data.startswith(b"HTTP/1.1 4")


async def test_a_websocket_is_refused_and_nobody_is_alarmed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    upgrade = (
        b"GET /v1/runs HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    async with (
        running() as gateway,
        await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream,
    ):
        await stream.send_all(upgrade)
        data = b""
        while piece := await stream.receive_some():
            data += piece
    assert data.startswith(b"HTTP/1.1 400 ")
    assert b"there are no WebSockets here" in data
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
