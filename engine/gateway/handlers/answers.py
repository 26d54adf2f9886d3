"""Answers that several routes give, as bytes. Outputs are JSON already and are not decoded."""

from __future__ import annotations

import msgspec

from engine.base.errors import EngineError
from engine.base.ids import run_id_text
from engine.gateway.api import shapes
from engine.gateway.api.exchange import Response
from engine.gateway.api.problems import problem_bytes
from engine.gateway.door.door import Door
from engine.model.runs import RunStatus
from engine.model.views import STATUS_NAMES, Outcome, RunView, Started

_encode = msgspec.json.Encoder().encode


def outcome_bytes(outcome: Outcome) -> bytes:
    run_id = run_id_text(outcome.run_id).encode()
    if outcome.status is RunStatus.COMPLETED:
        output = outcome.output or b"null"
        return b'{"run_id":"%b","status":"COMPLETED","output":%b}' % (run_id, output)
    status = STATUS_NAMES[outcome.status].encode()
    if outcome.error is None:
        return b'{"run_id":"%b","status":"%b"}' % (run_id, status)
    error = outcome.error
    shown = _encode(shapes.RunError(code=error.code, message=error.message, type=error.type))
    return b'{"run_id":"%b","status":"%b","error":%b}' % (run_id, status, shown)


def started_bytes(started: Started) -> bytes:
    is_new = b"true" if started.is_new else b"false"
    return b'{"run_id":"%b","is_new":%b}' % (run_id_text(started.run_id).encode(), is_new)


def started_response(started: Started) -> Response:
    location = b"/v1/runs/%b" % run_id_text(started.run_id).encode()
    return Response(started_bytes(started), status=202, headers=((b"location", location),))


def batch_item(door: Door, started: Started | EngineError) -> bytes:
    """What became of one of many starts."""
    if isinstance(started, Started):
        door.metrics.starts_total += 1
        return started_bytes(started)
    return problem_bytes(started)


def done_response(run_id: str, done: bytes) -> Response:
    return Response(b'{"run_id":"%b","done":"%b"}' % (run_id.encode(), done), status=202)


def is_terminal(view: RunView) -> bool:
    return RunStatus[view.status].is_terminal


def not_yet(view: RunView) -> Response:
    """The run has not ended: 202, and the status it has."""
    return json_response(shapes.StatusAnswer(run_id=view.run_id, status=view.status), 202)


def json_response(value: object, status: int = 200) -> Response:
    return Response(_encode(value), status=status)
