"""The routes that are asked most: start and wait, start, ask for the outcome, signal.

Each handler reads its exchange, calls the Handle and returns bytes; nothing is kept.
"""

from __future__ import annotations

import math

import trio

from engine.base.errors import InvalidInput
from engine.base.ids import parse_run_id, run_id_text
from engine.base.limits import key_length_max
from engine.gateway.api import reading, shapes
from engine.gateway.api.exchange import Exchange, Response
from engine.gateway.door.door import Door
from engine.gateway.handlers import answers
from engine.gateway.handlers.starting import caller_of, start, start_request, target_of
from engine.model.context import RequestContext
from engine.model.views import StartRequest


async def run(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response:
    with door.waiting(context):
        # Nothing here holds the input while the run goes on.
        started = await start(door, context, await read_start(door, exchange, context, parameters))
        outcome = await door.handle.wait_outcome(context, started.run_id)
    return Response(answers.outcome_bytes(outcome))


async def submit(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response:
    request = await read_start(door, exchange, context, parameters)
    return answers.started_response(await start(door, context, request))


async def status(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response:
    reading.typed_query(shapes.NoQuery, exchange.query)
    view = await door.handle.get_status(context, parse_run_id(parameters[0]))
    return answers.json_response(shapes.StatusAnswer(run_id=view.run_id, status=view.status))


async def result(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response:
    run_id = parse_run_id(parameters[0])
    wait_s = _wait_s(door, exchange.query)
    if wait_s == 0:
        view = await door.handle.get_status(context, run_id)
        if not answers.is_terminal(view):
            return answers.not_yet(view)
        wait_s = math.inf  # it has ended, so this does not take long
    with door.waiting(context), trio.move_on_after(wait_s):
        outcome = await door.handle.wait_outcome(context, run_id)
        return Response(answers.outcome_bytes(outcome))
    return answers.not_yet(await door.handle.get_status(context, run_id))


async def signal(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response:
    run_id, name = parse_run_id(parameters[0]), parameters[1]
    if not 0 < len(name) <= key_length_max:
        raise InvalidInput(f"a signal's name has 1 to {key_length_max} characters", field="name")
    signal_id = reading.idempotency_key(exchange.headers)
    payload = reading.checked_json(await exchange.read(door.settings.body_bytes_max))
    await door.handle.signal(context, run_id, name, payload, signal_id)
    return answers.done_response(run_id_text(run_id), b"signalled")


async def read_start(
    door: Door, exchange: Exchange, context: RequestContext, parameters: tuple[str, ...]
) -> StartRequest:
    target = target_of(parameters, exchange.query)
    caller = caller_of(door, exchange.headers, context)
    json_input = reading.checked_json(await exchange.read(door.settings.body_bytes_max))
    return start_request(target, caller, json_input, caller.idempotency_key)


def _wait_s(door: Door, query: str) -> float:
    wait_s = reading.typed_query(shapes.ResultQuery, query).wait_s
    wait_s_max = door.settings.result_wait_s_max
    if not wait_s <= wait_s_max:  # so that NaN is refused as well
        raise InvalidInput(
            f"wait_s is at most {wait_s_max:g}; ask again to wait longer", field="wait_s"
        )
    return wait_s
