"""What a view is asked: a request with its body read. What a view is: `View`, `OpenView`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from engine.gateway.api.exchange import Response
from engine.gateway.door.door import Door
from engine.model.context import RequestContext


class Asked(NamedTuple):
    parameters: tuple[str, ...]
    query: str
    headers: Mapping[str, str]
    body: bytes


View = Callable[[Door, RequestContext, Asked], Awaitable[Response]]
OpenView = Callable[[Door, Asked], Awaitable[Response]]
