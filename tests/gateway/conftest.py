"""A gateway for a test: over a real socket, on a port of its own, with the fake runtime behind."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio

from engine.base.clock import ManualClock
from engine.base.errors import Unauthorized
from engine.base.ids import project_id, tenant_id
from engine.gateway.serve import serve
from engine.gateway.settings import GatewaySettings
from engine.model.context import AuthMode, RequestContext
from tests.gateway.client import NOT_PLAIN, Client, connected
from tests.gateway.fake_handle import FakeHandle

CONTEXT = RequestContext(tenant_id("dev"), project_id("default"), AuthMode.LOOPBACK, "ann")
OTHER_TENANT = RequestContext(tenant_id("other"), project_id("default"), AuthMode.API_KEY)
REFUSED_KEY = "sk_refused"
OTHER_KEY = "sk_other"


def authenticate(headers: Mapping[str, str], peer: str | None) -> RequestContext:
    assert peer == "127.0.0.1"
    key = headers.get("authorization", "").removeprefix("Bearer ") or headers.get("x-api-key")
    if key == REFUSED_KEY:
        raise Unauthorized("this key is not known; make one with the admin routes")
    return OTHER_TENANT if key == OTHER_KEY else CONTEXT


class RunningGateway:
    def __init__(self, port: int, handle: FakeHandle, clock: ManualClock, stop: trio.Event) -> None:
        self.port = port
        self.handle = handle
        self.clock = clock
        self.stop = stop
        self.stopped = trio.Event()
        self.not_ready: str | None = None

    def client(self, *headers: tuple[str, str]) -> AbstractAsyncContextManager[Client]:
        return connected(self.port, *headers)

    async def measured(self, name: str) -> float:
        """One number of /metrics."""
        async with self.client() as client:
            lines = (await client.get("/metrics")).body.decode().splitlines()
        (found,) = (line for line in lines if line.startswith(f"{name} "))
        return float(found.split()[-1])


@asynccontextmanager
async def running(
    *,
    handle: Callable[[ManualClock], FakeHandle] = FakeHandle,
    tls: ssl.SSLContext | None = None,
    **settings: Any,
) -> AsyncIterator[RunningGateway]:
    clock = ManualClock()
    gateway = RunningGateway(0, handle(clock), clock, trio.Event())

    async def run(task_status: trio.TaskStatus[tuple[str, int]]) -> None:
        await serve(
            gateway.handle,
            authenticate,
            clock=clock,
            settings=GatewaySettings(**settings),
            host="127.0.0.1",
            port=0,
            stop=gateway.stop,
            readiness=lambda: gateway.not_ready,
            more_metrics=lambda: "engine_other 1\n",
            tls=tls,
            task_status=task_status,
        )
        gateway.stopped.set()

    async with trio.open_nursery() as nursery:
        _, gateway.port = await nursery.start(functools.partial(run))
        with trio.fail_after(30):
            yield gateway
        nursery.cancel_scope.cancel()


@pytest.fixture
async def gateway() -> AsyncIterator[RunningGateway]:
    async with running() as found:
        yield found


Connect = Callable[[], AbstractAsyncContextManager[Client]]


@pytest.fixture(params=["plain", "hypercorn"])
def connect(request: pytest.FixtureRequest, gateway: RunningGateway) -> Connect:
    """Connections over either way into the gateway: one suite for both."""
    headers = [NOT_PLAIN] if request.param == "hypercorn" else []
    return functools.partial(gateway.client, *headers)
