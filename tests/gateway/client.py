"""A client of the tests' own, over h11: what it accepts, the gateway has framed as HTTP asks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import h11
import msgspec
import trio

# Harmless, but not plain: with it a connection goes to Hypercorn.
NOT_PLAIN = ("TE", "trailers")


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.body.splitlines()]


class Event(NamedTuple):
    id: int | None
    name: str
    data: Any


class Client:
    def __init__(self, stream: trio.SocketStream, headers: Sequence[tuple[str, str]]) -> None:
        self.stream = stream
        self._headers = [("Host", "gateway"), *headers]
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 26)
        self._rest = b""

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, headers=headers)

    async def post(self, path: str, value: Any = None, **headers: str) -> Answer:
        return await self.ask("POST", path, msgspec.json.encode(value), headers=headers)

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        await self.send(method, path, body, headers)
        status, found = await self.read_head()
        return Answer(status, found, await self.read_body())

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        named = [
            (name.replace("_", "-"), text.encode("latin-1"))
            for name, text in (headers or {}).items()
        ]
        if not any(name.lower() in ("content-length", "transfer-encoding") for name, _ in named):
            named.append(("Content-Length", str(len(body)).encode()))
        request = h11.Request(method=method, target=path, headers=[*self._headers, *named])
        data = [self._http.send(event) for event in (request, h11.Data(body), h11.EndOfMessage())]
        await self.stream.send_all(b"".join(piece or b"" for piece in data))

    async def send_head(
        self,
        method: str,
        path: str,
        *,
        length: int | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Without the body that it announces; of no length: in chunks."""
        framing = (
            ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        )
        named = [*self._headers, *(headers or {}).items(), framing]
        data = self._http.send(h11.Request(method=method, target=path, headers=named))
        await self.stream.send_all(data or b"")

    async def send_piece(self, data: bytes) -> None:
        await self.stream.send_all(self._http.send(h11.Data(data)) or b"")

    async def read_head(self) -> tuple[int, Mapping[str, str]]:
        while not isinstance(event := await self._event(), h11.Response):
            assert isinstance(event, h11.InformationalResponse)
        headers = {name.decode(): value.decode() for name, value in event.headers}
        return event.status_code, headers

    async def read_piece(self) -> bytes:
        """Of the answer's body; empty at its end."""
        while isinstance(event := await self._event(), h11.Data):
            if event.data:
                return bytes(event.data)
        assert isinstance(event, h11.EndOfMessage)
        self._next_cycle()
        return b""

    async def read_body(self) -> bytes:
        pieces = []
        while piece := await self.read_piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def read_block(self) -> bytes | None:
        """What stands between two empty lines of an event stream: an event or a comment."""
        while b"\n\n" not in self._rest:
            piece = await self.read_piece()
            if not piece:
                assert self._rest == b""
                return None
            self._rest += piece
        block, _, self._rest = self._rest.partition(b"\n\n")
        return block

    async def read_event(self) -> Event | None:
        while (block := await self.read_block()) is not None:
            if not block.startswith(b":"):
                return event_of(block)
        return None

    async def read_events(self, count: int | None = None) -> list[Event]:
        """So many, or all there are until the stream ends."""
        events: list[Event] = []
        while len(events) != count:
            event = await self.read_event()
            if event is None:
                assert count is None
                break
            events.append(event)
        return events

    def _next_cycle(self) -> None:
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()

    async def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self.stream.receive_some())
        return event


def event_of(block: bytes) -> Event:
    fields: dict[str, list[str]] = {}
    for line in block.decode().split("\n"):
        name, _, value = line.partition(": ")
        fields.setdefault(name, []).append(value)
    offset = fields.get("id")
    data = msgspec.json.decode("\n".join(fields["data"]))
    return Event(int(offset[0]) if offset else None, fields["event"][0], data)


@asynccontextmanager
async def connected(port: int, *headers: tuple[str, str]) -> AsyncIterator[Client]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        yield Client(stream, headers)
