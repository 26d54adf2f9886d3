"""What the tester of the OpenAPI document has to be told: how lines of JSON are written and read,
and a run that there is."""

from __future__ import annotations

import json
import os
from typing import Any

import schemathesis

RUN_ID = os.environ["TESTED_RUN_ID"]
_NOTHING_STARTED = {"run_id": RUN_ID, "is_new": False}


@schemathesis.serializer("application/x-ndjson")
def one_line(ctx: schemathesis.SerializationContext, value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def first_line(ctx: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """The schema is that of a line; where there is none, there is nothing to hold against it."""
    lines = response.content.splitlines()
    return json.loads(lines[0]) if lines else _NOTHING_STARTED


@schemathesis.hook
def map_path_parameters(
    ctx: schemathesis.HookContext, path_parameters: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Of the runs that are asked for, about every second is one that there is. (How far its events
    go no schema says, so their readers ask for others.)"""
    run_id = (path_parameters or {}).get("run_id")
    is_of_events = ctx.operation is not None and ctx.operation.path.endswith("/events")
    if path_parameters is not None and _is_id(run_id) and not is_of_events:
        path_parameters["run_id"] = RUN_ID
    return path_parameters


def _is_id(text: object) -> bool:
    return isinstance(text, str) and len(text) == len(RUN_ID) and text[-1] in "02468ace"
