"""The gateway as a service.

A connection begins as a plain one. When it turns out to speak anything else, Hypercorn gets it
together with the bytes that were read, and keeps it: HTTP/2, chunked uploads, `Expect`, odd but
legal heads, and refusing what is not legal. Why not Hypercorn for all: docs/decisions.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

import trio

from engine.base.clock import Clock
from engine.gateway.door.door import Door, Handler, OpenHandler
from engine.gateway.handlers import delivering, hot, intake, probes, streams
from engine.gateway.handlers.cold import Cold
from engine.gateway.ports import Authenticate, Handle, MoreMetrics, Readiness
from engine.gateway.settings import GatewaySettings
from engine.gateway.transport.asgi import Front
from engine.gateway.transport.connections import Connections, open_listeners
from engine.gateway.transport.handed_over import Hypercorn
from engine.gateway.transport.plain import Shared

HANDLERS: Final[Mapping[str, Handler]] = {
    "run": hot.run,
    "submit": hot.submit,
    "status": hot.status,
    "result": hot.result,
    "signal": hot.signal,
    "stream": streams.stream,
    "events": streams.events,
    "runs_batch": intake.runs_batch,
}
OPEN_HANDLERS: Final[Mapping[str, OpenHandler]] = {
    "healthz": probes.healthz,
    "readyz": probes.readyz,
    "metrics": probes.metrics,
    "webhook": delivering.webhook,
}


async def serve(
    handle: Handle,
    authenticate: Authenticate,
    *,
    clock: Clock,
    settings: GatewaySettings,
    host: str,
    port: int,
    stop: trio.Event,
    readiness: Readiness = lambda: None,
    more_metrics: MoreMetrics = str,
    tls: ssl.SSLContext | None = None,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until `stop` is set; `task_status` is told the address, with the port that was given
    when 0 was asked for."""
    cold = Cold()
    door = Door(
        handle,
        authenticate,
        clock=clock,
        settings=settings,
        handlers={**HANDLERS, **cold.handlers},
        open_handlers={**OPEN_HANDLERS, **cold.open_handlers},
        readiness=readiness,
        more_metrics=more_metrics,
    )
    shared = Shared(settings, clock, door.answer, door.bodies)
    hypercorn = Hypercorn(Front(door), settings)
    connections = Connections(shared, door.metrics, hypercorn.serve, tls)
    listeners = await open_listeners(host, port)
    try:
        task_status.started(listeners[0].getsockname()[:2])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_note_stop, stop, door, hypercorn)
            await connections.serve(listeners, stop)
    finally:
        for listener in listeners:
            listener.close()


async def _note_stop(stop: trio.Event, door: Door, hypercorn: Hypercorn) -> None:
    await stop.wait()
    door.is_stopping = True
    await hypercorn.stop()
