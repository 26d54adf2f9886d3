"""The worker: dials the engine, keeps a session with it, and comes back when the stream breaks.

    Worker("shop").run()

It owns connecting, heartbeats, draining and the way out. What is done with frames is in
`session.py`, how they travel in `transport.py`, where functions run in `hosts.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import engine
from engine.base.clock import Clock, system_clock
from engine.base.errors import EngineError
from engine.base.limits import worker_capacity_max
from engine.model.worker_frames import Register
from engine.sdk import limits
from engine.sdk.authoring.registry import AnyComponent, Registry
from engine.sdk.errors import ConnectionLost
from engine.sdk.tls import client_context
from engine.sdk.worker.hosts import AsyncioHost, Host
from engine.sdk.worker.session import Session
from engine.sdk.worker.transport import (
    Connection,
    asyncio_in_trio,
    awaitable_in_trio,
    parse_endpoint,
)

_log: Final = logging.getLogger("engine.worker")

# What the engine says when connecting again would not help: something has to be changed first.
_FINAL_CODES: Final = frozenset(
    {
        "duplicate_component",
        "invalid_input",
        "invalid_name",
        "limit_exceeded",
        "malformed_record",
        "stale_fence",
        "unauthorized",
        "unsupported_sdk",
    }
)

MakeHost = Callable[[Callable[[], None]], Host]


class Worker:
    """Serves components to an engine.

    `components` is a module, or a list of what the decorators made; left out, it is everything that
    was decorated in this process. `capacity` is how many runs it holds at a time, `threads` how
    many plain `def` functions run at a time. With `backend="trio"`, functions run on Trio. At an
    `https://` endpoint the certificate and its name are verified, against what the system trusts or
    what is in `ca_file`.

    `run()` returns after SIGTERM or Ctrl-C: it takes nothing new, finishes what it has for up to
    `drain_timeout` seconds, and leaves; the second signal leaves at once. What is not finished
    goes to other workers. `await serve()` is the same without the signals; `drain()` asks for it.
    """

    def __init__(
        self,
        service_name: str,
        components: ModuleType | Iterable[AnyComponent] | None = None,
        *,
        endpoint: str = "http://127.0.0.1:34180",
        token: str = "",
        ca_file: str | Path | None = None,
        deployment_id: str = "",
        capacity: int = limits.capacity_default,
        worker_id: str | None = None,
        threads: int = limits.threads_default,
        drain_timeout: float = limits.drain_timeout_s_default,
        backend: Literal["asyncio", "trio"] = "asyncio",
        clock: Clock = system_clock,
    ) -> None:
        if backend not in ("asyncio", "trio"):
            raise ValueError(f"backend {backend!r} is neither 'asyncio' nor 'trio'")
        if not 1 <= capacity <= worker_capacity_max:
            raise ValueError(f"capacity is {capacity}: from 1 to {worker_capacity_max}")
        self.service_name: Final = service_name
        self.worker_id: Final = worker_id or _made_up_id(service_name)
        self.registry: Final = Registry.of(components)
        self._endpoint = parse_endpoint(endpoint)
        self._tls = client_context(endpoint, ca_file)
        if self._tls is not None:
            self._tls.set_alpn_protocols(["h2"])
        self._token = token
        self._deployment_id = deployment_id
        self._capacity = capacity
        self._threads = threads
        self._drain_timeout_s = drain_timeout
        self._backend = backend
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: Session | None = None
        self._draining = asyncio.Event()
        self._leaving = asyncio.Event()
        self._room = asyncio.Event()  # for more that waits to be sent
        self._failures = 0

    # ---- for the user ----

    def run(self) -> None:
        """Until SIGTERM or Ctrl-C."""
        if self._backend == "asyncio":
            # Where trio-asyncio is imported, the default loop would be one on Trio.
            patched = "trio_asyncio" in sys.modules
            factory = asyncio.SelectorEventLoop if patched else None
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(self._run_asyncio())
        else:
            import trio

            trio.run(self._run_trio)

    async def serve(self) -> None:
        """Until `drain()` was called and all is finished, or until cancelled."""
        if self._backend == "asyncio":
            if type(asyncio.get_running_loop()).__module__.startswith("trio_asyncio"):
                raise ValueError("this asyncio loop runs on Trio: make the worker backend='trio'")
            await self._keep_connected(self._asyncio_host)
        else:
            await self._serve_trio()

    def drain(self) -> None:
        """Take nothing new, finish what is here, leave. From any thread; a second call leaves
        at once."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_signal)
        else:
            self._draining.set()

    @property
    def is_connected(self) -> bool:
        """The engine has accepted it."""
        return self._session is not None and self._session.registered is not None

    @property
    def runs_held(self) -> int:
        return self._session.runs_held if self._session is not None else 0

    # ---- running on one library or the other ----

    async def _run_asyncio(self) -> None:
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_signal)
        await self.serve()

    async def _run_trio(self) -> None:
        import trio

        async def listen() -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as numbers:
                async for _ in numbers:
                    self._on_signal()

        async with trio.open_nursery() as nursery:
            if threading.current_thread() is threading.main_thread():
                nursery.start_soon(listen)
            await self.serve()
            nursery.cancel_scope.cancel()

    async def _serve_trio(self) -> None:
        import trio

        from engine.sdk.worker.trio_host import TrioHost

        failure: EngineError | None = None
        async with asyncio_in_trio(), trio.open_nursery() as nursery:

            def make_host(turn: Callable[[], None]) -> Host:
                return TrioHost(turn, threads_max=self._threads, nursery=nursery)

            try:
                await awaitable_in_trio(self._keep_connected)(make_host)
            except EngineError as error:
                failure = error  # a nursery would wrap it into a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    def _asyncio_host(self, turn: Callable[[], None]) -> Host:
        return AsyncioHost(turn, threads_max=self._threads)

    def _on_signal(self) -> None:
        if self._draining.is_set():
            self._leaving.set()
            return
        self._draining.set()
        if self._session is not None:
            self._session.drain("the worker was asked to stop")
        if self._loop is not None:
            self._loop.call_later(self._drain_timeout_s, self._leaving.set)

    # ---- connecting; from here on it is asyncio ----

    async def _keep_connected(self, make_host: MakeHost) -> None:
        self._loop = asyncio.get_running_loop()
        while not self._draining.is_set():
            try:
                await self._hold_session(make_host)
            except ConnectionLost as error:
                _log.warning("%s", error.message)
            except EngineError as error:
                if error.code in _FINAL_CODES:
                    raise
                _log.warning("the engine cannot take this worker now: %s", error.message)
            if not self._draining.is_set():
                await self._back_off()

    async def _back_off(self) -> None:
        """Longer each time, and never the same for a thousand workers that lost one engine."""
        longest_ms = min(
            limits.reconnect_ms_max, limits.reconnect_ms_initial << min(self._failures, 16)
        )
        self._failures += 1
        share = int.from_bytes(os.urandom(4), "big") / 2**32
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), longest_ms * (0.5 + share / 2) / 1_000)

    async def _hold_session(self, make_host: MakeHost) -> None:
        """One session, from the first frame to the end of the stream."""
        async with Connection(self._endpoint, self._tls) as connection:
            wanted = asyncio.Event()
            session = Session(self.registry, self._clock, wake=wanted.set, host=make_host)
            self._session = session
            session.register(self._registration())
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            try:
                await _until_one_ends(
                    self._read(connection, session),
                    self._write(connection, session, wanted),
                    self._leaving.wait(),
                )
            finally:
                self._session = None
                session.close()
                if loop.time() - began_s > limits.reconnect_ms_max / 1_000:
                    self._failures = 0  # one that ends as soon as it has begun is a failure too

    def _registration(self) -> Register:
        return Register(
            token=self._token,
            deployment_id=self._deployment_id,
            service_name=self.service_name,
            components=tuple(component.registered() for component in self.registry),
            capacity=self._capacity,
            sdk_version=engine.__version__,
            worker_id=self.worker_id,
        )

    async def _read(self, connection: Connection, session: Session) -> None:
        try:
            async with asyncio.timeout(limits.register_timeout_s):
                while session.registered is None and await self._take(connection, session):
                    pass
        except TimeoutError as error:
            raise ConnectionLost(
                f"the engine did not answer the registration within {limits.register_timeout_s} s"
            ) from error
        if session.registered is not None:
            self._registered(session)
            while await self._take(connection, session):
                if session.outgoing_bytes > limits.outgoing_bytes_pause:
                    self._room.clear()  # the engine takes no answers, so it gets no ear
                    await self._room.wait()

    async def _take(self, connection: Connection, session: Session) -> bool:
        """One message; False: the engine has ended the stream."""
        message = await connection.receive()
        if message is None:
            return False
        session.receive(message)
        return True

    def _registered(self, session: Session) -> None:
        registered = session.registered
        assert registered is not None
        _log.info("worker %s is connected, session %d", registered.worker_id, registered.session)
        if self._draining.is_set():
            session.drain("the worker was asked to stop")
        interval_s = max(registered.heartbeat_ms, 10) / 1_000

        def beat() -> None:
            if self._session is session:
                session.heartbeat()
                session.host.call_later(interval_s, beat)

        session.host.call_later(interval_s, beat)

    async def _write(self, connection: Connection, session: Session, wanted: asyncio.Event) -> None:
        while True:
            message = session.take()
            if message is not None:
                await connection.send(message)
                if session.outgoing_bytes <= limits.outgoing_bytes_pause:
                    self._room.set()
            elif session.is_draining and session.is_idle:
                await connection.end()
                return
            else:
                wanted.clear()
                await wanted.wait()


async def _until_one_ends(*coroutines: Awaitable[Any]) -> None:
    """The others are cancelled; what the first one raised is raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _made_up_id(service_name: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9_.-]", "-", service_name)[:40]
    return f"{readable or 'worker'}-{os.urandom(4).hex()}"
