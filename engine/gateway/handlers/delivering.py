"""The door for other servers: `POST /v1/webhooks/{name}`, which nobody needs a key for.

Who has no secret learns nothing here, not even which names are set up: whatever the name is, a
request without a signature is refused before its body, and any other after it, in the same words.
The body of a name that is not set up is read and dropped.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from engine.base.ids import deployment_id, project_id, run_id_text, tenant_id
from engine.gateway.api import reading
from engine.gateway.api.exchange import Exchange, Response
from engine.gateway.door.door import Door
from engine.gateway.handlers import answers, webhooks
from engine.gateway.handlers.starting import start
from engine.gateway.settings import WebhookSettings
from engine.model.context import AuthMode, RequestContext
from engine.model.views import StartRequest

_NOBODYS_SECRET: Final = b"what is signed with this is never taken"


async def webhook(door: Door, exchange: Exchange, parameters: tuple[str, ...]) -> Response:
    moment = webhooks.Moment(door.clock.now_ms() // 1_000, door.settings.webhook_age_s_max)
    webhooks.check_signed(exchange.headers, moment)
    hook = door.webhooks.get(parameters[0])
    if hook is None:
        await _drop(door, exchange)
        raise webhooks.refusal()
    body = await exchange.read(door.settings.body_bytes_max)
    delivery = webhooks.delivery_id(hook, exchange.headers, body, moment)
    context = RequestContext(
        tenant_id(hook.tenant_id), project_id(hook.project_id), AuthMode.WEBHOOK
    )
    json_input = reading.checked_json(body)
    if hook.signal:
        run_id = webhooks.run_id_in(hook, json_input)
        await door.handle.signal(context, run_id, hook.signal, json_input, delivery)
        return answers.done_response(run_id_text(run_id), b"signalled")
    started = await start(door, context, _start_request(hook, json_input, delivery))
    return answers.done_response(run_id_text(started.run_id), b"started")


async def _drop(door: Door, exchange: Exchange) -> None:
    """Takes as long, and as much of its payer's share, as a body that is kept."""
    digest = hmac.new(_NOBODYS_SECRET, digestmod=hashlib.sha256)
    with exchange.holding() as held:
        while piece := await exchange.read_piece(door.settings.body_bytes_max):
            held.add(len(piece))
            digest.update(piece)
    digest.digest()


def _start_request(hook: WebhookSettings, json_input: bytes, delivery: str | None) -> StartRequest:
    return StartRequest(
        component=hook.component,
        input=json_input,
        deployment_id=deployment_id(hook.deployment_id),
        idempotency_key=delivery,
    )
