"""The coordinator as a service: listens, lets workers in, and says goodbye when it stops.

Runs in one Trio task, with an asyncio loop inside for grpclib. A failure that nobody foresaw while
one stream is served ends that stream; what it may have left half done in a tenant is the runtime's
to contain. Only what is nobody's stream, a defect of the loop itself, ends the service.
"""

from __future__ import annotations

import errno
import logging
import socket
import ssl
from typing import Any, Final, NamedTuple

import grpclib.const
import trio
import trio_asyncio  # type: ignore[import-untyped]

import engine
from engine.base.binding import bind_patiently, holder_of
from engine.base.clock import Clock, system_clock
from engine.base.errors import AddressInUse, InvalidSettings
from engine.config.coordinator import CoordinatorSettings
from engine.coordinator.defects import Defects
from engine.coordinator.http2 import BoundedServer, BytesStream
from engine.coordinator.liveness import LivenessService
from engine.coordinator.offenders import Offenders
from engine.coordinator.ports import Authenticate, WorkerDoor
from engine.coordinator.shares import Shares
from engine.coordinator.stream import Surroundings, WorkerStream
from engine.wire.worker import CONNECT_METHOD

_log = logging.getLogger(__name__)

_GOODBYE: Final = "the engine is shutting down; connect again when it is back"
_BACKLOG: Final = 512


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Coordinator:
    def __init__(
        self,
        door: WorkerDoor,
        authenticate: Authenticate,
        *,
        settings: CoordinatorSettings,
        clock: Clock = system_clock,
    ) -> None:
        self.defects: Final = Defects(clock)
        self._around: Final = Surroundings(
            door,
            authenticate,
            clock,
            settings,
            engine.__version__,
            self.defects,
            Offenders(clock),
            Shares(),
        )
        self._settings: Final = settings
        self._streams: Final[set[WorkerStream]] = set()
        self._stopping = False
        self._everybody_left = trio.Event()
        self._failed = trio.Event()
        self._failure: BaseException | None = None
        self.liveness: Final = LivenessService(lambda: self._streams, clock, settings)

    @property
    def streams(self) -> tuple[WorkerStream, ...]:
        return tuple(self._streams)

    async def serve(
        self,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Until cancelled; then the workers are told, and what is ready is still sent to them.
        With port 0 the system picks one; `task_status` has what it picked."""
        with await _listening(address) as listener:
            async with trio_asyncio.open_loop() as loop:
                loop.set_exception_handler(self._on_loop_error)
                server = await trio_asyncio.aio_as_trio(self._start)(listener, tls)
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self.liveness.run)
                        task_status.started(Address(*listener.getsockname()[:2]))
                        await self._failed.wait()
                        nursery.cancel_scope.cancel()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._stop(server)
        if self._failure is not None:
            raise self._failure

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        """Which method of the service is served by what; asked for by grpclib."""
        both_ways = grpclib.const.Cardinality.STREAM_STREAM
        return {CONNECT_METHOD: grpclib.const.Handler(self._serve_stream, both_ways, bytes, bytes)}

    async def _start(self, listener: socket.socket, tls: ssl.SSLContext | None) -> BoundedServer:
        server = BoundedServer(self, unused_s_max=self._settings.register_ms / 1_000)
        await server.start(sock=listener, backlog=_BACKLOG, ssl=tls)
        return server

    async def _stop(self, server: BoundedServer) -> None:
        self._stopping = True
        for stream in self.streams:
            stream.farewell(_GOODBYE)
        if self._streams:
            with trio.move_on_after(self._settings.farewell_ms / 1_000):
                await self._everybody_left.wait()
        await trio_asyncio.aio_as_trio(server.shut)(_GOODBYE)

    async def _serve_stream(self, grpc_stream: BytesStream) -> None:
        if self._stopping:
            return
        stream = WorkerStream(grpc_stream, self._around)
        self._streams.add(stream)
        try:
            await stream.run()
        except Exception as error:  # noqa: BLE001 - one stream's defect must not end the others
            stream.note_defect("serving", error)
            stream.cut("the engine failed on what this stream brought, which is a defect")
        finally:
            self._left(stream)

    def _left(self, stream: WorkerStream) -> None:
        self._streams.discard(stream)
        if self._stopping and not self._streams:
            self._everybody_left.set()

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()

    def _on_loop_error(self, loop: object, context: dict[str, Any]) -> None:
        """What a peer's bytes bring about ends that peer's connection, which asyncio has seen to;
        all else is a defect."""
        error = context.get("exception")
        message = context.get("message")
        if isinstance(error, OSError) or not context.keys().isdisjoint(("protocol", "socket")):
            _log.warning("%s: %r", message, error)
        else:
            self._fail(error if error is not None else RuntimeError(message))


async def _listening(address: Address) -> socket.socket:
    """A socket that listens. The name is looked up once; of several addresses the first counts."""
    try:
        found = await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise InvalidSettings(
            f"cannot listen on {address}: {error}: give --grpc another HOST:PORT",
            setting="grpc",
        ) from error
    family, kind, protocol, _, where = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        await bind_patiently(listener, where, trio.sleep)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"cannot listen on {address}: {holder_of(address.port)}; wait for its end, or let "
                "this one listen elsewhere with --grpc HOST:PORT",
                address=str(address),
            ) from error
        raise InvalidSettings(
            f"cannot listen on {address}: {error.strerror}: give --grpc another HOST:PORT",
            setting="grpc",
        ) from error
    return listener
