"""The stream to the engine: gRPC by grpclib, on asyncio; under Trio on an asyncio loop within it.

The only file of the SDK that knows grpclib and trio-asyncio. Messages are bytes here, and every
way in which a connection can fail is `ConnectionLost`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from grpclib.client import Channel, Stream
from grpclib.config import Configuration
from grpclib.const import Cardinality
from grpclib.encoding.base import CodecBase

from engine.base.errors import InvalidEndpoint
from engine.base.limits import stream_message_bytes_max
from engine.sdk import limits
from engine.sdk.errors import ConnectionLost
from engine.wire.worker import CONNECT_METHOD

if TYPE_CHECKING:
    from engine.sdk.replay.loop import ScriptLoop

_log: Final = logging.getLogger("engine.worker")

_PORT_DEFAULT: Final = 34180
_WINDOW_BYTES: Final = 16 * 2**20


class Endpoint(NamedTuple):
    host: str
    port: int
    is_tls: bool


def parse_endpoint(text: str) -> Endpoint:
    """Of a URL; a bare host:port is refused, because it says nothing about encryption."""
    parts = urlsplit(text) if "://" in text else None
    if parts is None or parts.scheme not in ("http", "https"):
        rest = text.rpartition("://")[2] or f"127.0.0.1:{_PORT_DEFAULT}"
        raise InvalidEndpoint(
            f"endpoint {text!r} has no scheme http:// or https://: write http://{rest}, or "
            f"https://{rest} where the engine is behind TLS",
            endpoint=text,
        )
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidEndpoint(f"endpoint {text!r}: {error}", endpoint=text) from error
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise InvalidEndpoint(
            f"endpoint {text!r} is not of the form http://HOST:PORT", endpoint=text
        )
    return Endpoint(host, port or _PORT_DEFAULT, parts.scheme == "https")


class _BytesCodec(CodecBase):
    """Frames are packed and scanned elsewhere."""

    __content_subtype__ = "proto"

    def encode(self, message: bytes, message_type: object) -> bytes:
        return message

    def decode(self, data: bytes, message_type: object) -> bytes:
        return data


class Connection:
    """One stream on one connection; an async context manager.

    Whatever grpclib raises means that this connection is of no more use: besides its own errors it
    lets those of h2 through, `ProtocolError` where the peer went away between two calls, and
    assertions where a message was cut short. So all of them are translated, none is listed.
    """

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None = None) -> None:
        assert endpoint.is_tls == (tls is not None), "what is said to be encrypted is encrypted"
        self._endpoint = endpoint
        self._channel = Channel(
            endpoint.host,
            endpoint.port,
            ssl=tls,
            codec=_BytesCodec(),
            config=Configuration(
                http2_connection_window_size=_WINDOW_BYTES,
                http2_stream_window_size=_WINDOW_BYTES,
                _keepalive_time=limits.keepalive_s,
                _keepalive_timeout=limits.keepalive_timeout_s,
                _http2_max_pings_without_data=0,  # no bound
                _http2_min_sent_ping_interval_without_data=limits.keepalive_s / 2,
                _keepalive_permit_without_calls=True,
            ),
        )
        request = self._channel.request(
            CONNECT_METHOD, Cardinality.STREAM_STREAM, bytes, bytes, timeout=None
        )
        self._stream: Stream[bytes, bytes] = request

    async def __aenter__(self) -> Connection:
        try:
            with self._translated():
                await self._stream.__aenter__()
                await self._stream.send_request()
                self._bound_messages()
        except ConnectionLost:
            self._channel.close()
            raise
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The connection is closed and with it the stream; the peer sees it end."""
        try:
            await self._stream.__aexit__(error_type, error, traceback)
        except Exception as ending:  # noqa: BLE001 - see above
            # It had ended already, or we leave in the middle of it. What made us leave goes on.
            _log.debug("the stream was left with %r", ending)
        finally:
            self._channel.close()

    async def send(self, message: bytes) -> None:
        """Returns when the peer has made room for it."""
        with self._translated():
            await self._stream.send_message(message)

    async def receive(self) -> bytes | None:
        """The next message, or None when the engine has ended the stream in order."""
        with self._translated():
            return await self._stream.recv_message()

    def _bound_messages(self) -> None:
        """grpclib reads a message of any length into memory; it reads it with one call."""
        inner: Any = self._stream._stream
        read = inner.recv_data

        async def recv_data(size: int) -> bytes:
            if size > stream_message_bytes_max:
                raise ValueError(
                    f"a message of {size} bytes was announced, over the {stream_message_bytes_max} "
                    "that an engine sends"
                )
            data: bytes = await read(size)
            return data

        inner.recv_data = recv_data

    async def end(self) -> None:
        """Nothing more will be sent."""
        with self._translated():
            await self._stream.end()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            scheme = "https" if self._endpoint.is_tls else "http"
            where = f"{scheme}://{self._endpoint.host}:{self._endpoint.port}"
            why = str(error) or type(error).__name__
            raise ConnectionLost(f"{where} cannot be reached: {why}", endpoint=where) from error


# ---- Trio ----


def asyncio_in_trio() -> AbstractAsyncContextManager[asyncio.AbstractEventLoop]:
    """An asyncio loop inside Trio, on the same thread."""
    # Imported only where it is asked for, because it patches asyncio.
    import trio_asyncio  # type: ignore[import-untyped]

    opened: AbstractAsyncContextManager[asyncio.AbstractEventLoop] = trio_asyncio.open_loop()
    return opened


def awaitable_in_trio(function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """An asyncio function as one of Trio's."""
    import trio_asyncio

    wrapped: Callable[..., Awaitable[Any]] = trio_asyncio.aio_as_trio(function)
    return wrapped


@contextmanager
def script_is_running(loop: ScriptLoop) -> Iterator[None]:
    """asyncio's idea of the running loop, which trio-asyncio keeps per Trio task."""
    import trio_asyncio

    token = trio_asyncio.current_loop.set(loop)
    try:
        yield
    finally:
        trio_asyncio.current_loop.reset(token)
        asyncio._set_running_loop(None)
