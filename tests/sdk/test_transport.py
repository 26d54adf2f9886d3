"""A peer that ends the stream in any way it can think of: for the worker that is a lost connection,
from which it comes back. It never dies of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import pytest

from engine.sdk import Worker, function, limits
from tests.sdk.on_asyncio import on_asyncio

HEADERS: Final = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS: Final = [("grpc-status", "0")]
Peer = h2.connection.H2Connection
Rude = Callable[[Peer, int], None]


def ends_before_it_begins(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, [*HEADERS, *TRAILERS], end_stream=True)


def ends_in_order_at_once(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, HEADERS)
    peer.send_headers(stream, TRAILERS, end_stream=True)


def ends_in_the_middle_of_a_message(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, HEADERS)
    peer.send_data(stream, b"\x00\x00\x00\x01\x00half", end_stream=True)


def ends_in_the_middle_of_a_length(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, HEADERS)
    peer.send_data(stream, b"\x00\x00", end_stream=True)


def compresses(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, HEADERS)
    peer.send_data(stream, b"\x01\x00\x00\x00\x02ab")


def announces_too_much(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, HEADERS)
    peer.send_data(stream, b"\x00\xff\xff\xff\xff" + bytes(1_000))


def resets(peer: Peer, stream: int) -> None:
    peer.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)


def goes_away(peer: Peer, stream: int) -> None:
    peer.close_connection(h2.errors.ErrorCodes.INTERNAL_ERROR)


def fails(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, [*HEADERS, ("grpc-status", "13")], end_stream=True)


def is_no_grpc(peer: Peer, stream: int) -> None:
    peer.send_headers(stream, [(":status", "404"), ("content-type", "text/html")], end_stream=True)


class RudePeer:
    """An HTTP/2 server that answers each stream in its own way, and hangs up."""

    def __init__(self, rude: Rude) -> None:
        self.address = ""
        self.connections = 0
        self._rude = rude

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        peer = Peer(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        peer.initiate_connection()
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            asked = None
            while asked is None and (data := await reader.read(65_536)):
                for event in peer.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        asked = event.stream_id
                if asked is not None:
                    self._rude(peer, asked)
                writer.write(peer.data_to_send())
                await writer.drain()
            await reader.read(65_536)


@asynccontextmanager
async def being(rude: Rude) -> AsyncIterator[RudePeer]:
    peer = RudePeer(rude)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield peer


@function
async def noop() -> None: ...


@pytest.mark.parametrize(
    "rude",
    [
        ends_before_it_begins,
        ends_in_order_at_once,
        ends_in_the_middle_of_a_message,
        ends_in_the_middle_of_a_length,
        compresses,
        announces_too_much,
        resets,
        goes_away,
        fails,
        is_no_grpc,
    ],
)
def test_the_worker_comes_back(monkeypatch: pytest.MonkeyPatch, rude: Rude) -> None:
    monkeypatch.setattr(limits, "reconnect_ms_initial", 1)
    monkeypatch.setattr(limits, "reconnect_ms_max", 1)

    async def test() -> None:
        async with being(rude) as peer:
            worker = Worker("noop", [noop], endpoint=peer.address)
            serving = asyncio.create_task(worker.serve())
            while peer.connections < 3:
                assert not serving.done(), serving.result()
                await asyncio.sleep(0.001)
            worker.drain()
            worker.drain()
            await serving

    on_asyncio(test, limit_s=20)
