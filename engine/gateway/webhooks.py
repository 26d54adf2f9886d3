"""Webhooks: is a body signed by who shares the secret, and what does the hook make of it.

Pure. Two signatures are known. `standard` is that of standardwebhooks.com: HMAC-SHA256 in base64
over `id.timestamp.body`, so that a captured request is of no use later, and its id makes a second
delivery harmless. `hub` is GitHub's: HMAC-SHA256 in hex over the body alone.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from engine.base.errors import InvalidInput
from engine.base.ids import RunId, parse_run_id
from engine.gateway.problems import InvalidSignature
from engine.gateway.settings import WebhookSettings

_TEXT: Final = msgspec.json.Decoder(str)
_SECRET_PREFIX: Final = "whsec_"


def delivery_id(
    hook: WebhookSettings, headers: Mapping[str, str], body: bytes, *, now_s: int, age_s_max: float
) -> str | None:
    """What names this delivery, once its signature has been found to be right."""
    if hook.scheme == "hub":
        _check_hub(hook, headers, body)
        return headers.get("x-github-delivery") or None
    return _check_standard(hook, headers, body, now_s=now_s, age_s_max=age_s_max)


def run_id_in(hook: WebhookSettings, body: bytes) -> RunId:
    """The run that a signal is for, from the body."""
    value: bytes = body
    try:
        for name in hook.run_id_path.split("."):
            value = bytes(_member(name).decode(value).member)
        return parse_run_id(_TEXT.decode(value))
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"the body has no run id at {hook.run_id_path}; put the id of the run that waits there",
            field=hook.run_id_path,
        ) from error


@functools.lru_cache(maxsize=1_024)
def _member(name: str) -> msgspec.json.Decoder[Any]:
    """Reads one member of an object and passes over the others."""
    member = msgspec.field(name=name)
    return msgspec.json.Decoder(msgspec.defstruct("Member", [("member", msgspec.Raw, member)]))


def _check_hub(hook: WebhookSettings, headers: Mapping[str, str], body: bytes) -> None:
    given = headers.get("x-hub-signature-256", "")
    expected = hmac.new(hook.secret.encode(), body, hashlib.sha256).hexdigest()
    if not _equal(given, f"sha256={expected}"):
        raise _refusal("X-Hub-Signature-256 is sha256= and the hex HMAC-SHA256 of the body")


def _check_standard(
    hook: WebhookSettings, headers: Mapping[str, str], body: bytes, *, now_s: int, age_s_max: float
) -> str:
    message_id = headers.get("webhook-id", "")
    timestamp = headers.get("webhook-timestamp", "")
    # The id is signed together with the time, so neither can be taken from another delivery.
    if not (message_id and timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        raise _refusal("the headers webhook-id and webhook-timestamp (in seconds) are needed")
    if abs(now_s - int(timestamp)) > age_s_max:
        raise _refusal(f"webhook-timestamp is more than {age_s_max:g} s away from the clock here")
    signed = b"%b.%b.%b" % (message_id.encode("latin-1"), timestamp.encode(), body)
    digest = hmac.new(_key(hook.secret), signed, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(digest).decode()}"
    # While a secret is being changed, a sender puts several signatures there.
    if not any(_equal(given, expected) for given in headers.get("webhook-signature", "").split()):
        raise _refusal("webhook-signature is v1, and the base64 HMAC-SHA256 of id.timestamp.body")
    return message_id


def _key(secret: str) -> bytes:
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    return base64.b64decode(secret.removeprefix(_SECRET_PREFIX))


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("latin-1"), expected.encode("latin-1"))


def _refusal(reason: str) -> InvalidSignature:
    return InvalidSignature(f"the webhook's signature is not right: {reason}; check the secret")
