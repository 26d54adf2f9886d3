"""One request and its answer, without saying how they travel.

A handler reads what it needs from an `Exchange` and returns a `Response`; or it begins a stream,
writes into it and returns None. `plain.py` and `asgi.py` each have an Exchange of their own.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import msgspec

Header = tuple[bytes, bytes]
# Who pays for a body that is on its way, and how much the bodies of that payer may hold.
Payer = tuple[Hashable, int]

NO_CONTENT: Final = 204
JSON_TYPE: Final = b"application/json"
NDJSON_TYPE: Final = b"application/x-ndjson"
EVENT_STREAM_TYPE: Final = b"text/event-stream"
ARROW_TYPE: Final = b"application/vnd.apache.arrow.stream"
CSV_TYPE: Final = b"text/csv"


class Disconnected(Exception):
    """The other end has gone, or the answer broke off half way; the connection is to be closed."""


def header_map(raw_headers: Iterable[Header]) -> dict[str, str]:
    """Names in lower case; one that is there twice is joined with a comma, as HTTP says."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw_headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


class Response(msgspec.Struct, frozen=True, gc=False):
    body: bytes
    status: int = 200
    content_type: bytes = JSON_TYPE
    headers: tuple[Header, ...] = ()

    def all_headers(self) -> tuple[Header, ...]:
        if self.status == NO_CONTENT:
            return self.headers
        return ((b"content-type", self.content_type), *self.headers)


class Held(Protocol):
    def add(self, count: int, /) -> None:
        """So many bytes more, or fewer; raises when there is no room for them."""


class Room(Protocol):
    """For bodies on their way; `bodies.py` is what has it."""

    def holding(self, payers: Sequence[Payer], /) -> AbstractContextManager[Held]: ...


class Exchange(abc.ABC):
    """`path` is as it was sent, percent-encoding included; header names are in lower case."""

    __slots__ = (
        "_room",
        "headers",
        "is_admitted",
        "is_begun",
        "method",
        "path",
        "payers",
        "peer",
        "query",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        peer: str | None,
        room: Room,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.peer = peer
        self.is_begun = False  # the status has been sent: it is too late for a problem document
        self.is_admitted = False  # it is known who asks, by a key
        self.payers: Sequence[Payer] = ()  # on whose account its body is, once that is settled
        self._room = room

    async def read(self, bytes_max: int) -> bytes:
        """The whole body; `BodyTooLarge` if it is longer than that."""
        with self.holding() as held:
            body = bytearray()  # a list of them would cost more than they hold, if they are crumbs
            while piece := await self.read_piece(bytes_max):
                held.add(len(piece))
                body += piece
            return bytes(body)

    def holding(self) -> AbstractContextManager[Held]:
        """For who reads piece by piece, and says what it keeps."""
        assert self.payers, "nothing is kept for somebody who has not been asked for a name"
        return self._room.holding(self.payers)

    @abc.abstractmethod
    async def read_piece(self, bytes_max: int) -> bytes:
        """The next bytes of a body of at most `bytes_max`, for a handler that need not have all of
        it at once; empty behind the last."""

    @abc.abstractmethod
    async def begin(self, status: int, headers: Sequence[Header]) -> None:
        """The answer begins and is of unknown length."""

    @abc.abstractmethod
    async def write(self, data: bytes) -> None:
        """More of the answer; returns when the transport can take more."""
