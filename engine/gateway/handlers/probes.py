"""Is it alive, is it ready, what does it measure: asked by machines, answered without a key."""

from __future__ import annotations

from engine.gateway.api.exchange import Exchange, Response
from engine.gateway.api.problems import NotReady
from engine.gateway.door.door import Door

_OK = b'{"status":"ok"}'
_PROMETHEUS = b"text/plain; version=0.0.4; charset=utf-8"


async def healthz(door: Door, exchange: Exchange, parameters: tuple[str, ...]) -> Response:
    return Response(_OK)


async def readyz(door: Door, exchange: Exchange, parameters: tuple[str, ...]) -> Response:
    why_not = door.why_not_ready()
    if why_not is not None:
        raise NotReady(f"not ready: {why_not}; ask again in a moment")
    return Response(_OK)


async def metrics(door: Door, exchange: Exchange, parameters: tuple[str, ...]) -> Response:
    text = door.metrics.text() + door.more_metrics()
    return Response(text.encode(), content_type=_PROMETHEUS)
