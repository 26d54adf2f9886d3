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
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from engine.base.errors import InvalidInput
from engine.base.ids import RunId, parse_run_id
from engine.gateway.api.problems import InvalidSignature
from engine.gateway.settings import WebhookSettings

_TEXT: Final = msgspec.json.Decoder(str)
_SECRET_PREFIX: Final = "whsec_"
_HUB_HEADER: Final = "x-hub-signature-256"
_HUB: Final = re.compile("sha256=[0-9a-f]{64}")


class Moment(NamedTuple):
    """When it is here, and how far from that a signature's time may be."""

    now_s: int
    age_s_max: float


def check_signed(headers: Mapping[str, str], moment: Moment) -> None:
    """Whether there is anything like a signature, before there is a body to hold it against."""
    if not _HUB.fullmatch(headers.get(_HUB_HEADER, "")) and not _is_standard(headers, moment):
        raise refusal()


def delivery_id(
    hook: WebhookSettings, headers: Mapping[str, str], body: bytes, moment: Moment
) -> str | None:
    """What names this delivery, once its signature has been found to be right."""
    if hook.scheme == "hub":
        _check_hub(hook, headers, body)
        return headers.get("x-github-delivery") or None
    return _check_standard(hook, headers, body, moment)


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
    given = headers.get(_HUB_HEADER, "")
    expected = hmac.new(hook.secret.encode(), body, hashlib.sha256).hexdigest()
    if not _equal(given, f"sha256={expected}"):
        raise refusal()


def _is_standard(headers: Mapping[str, str], moment: Moment) -> bool:
    timestamp = headers.get("webhook-timestamp", "")
    # The id is signed together with the time, so neither can be taken from another delivery.
    return (
        bool(headers.get("webhook-id"))
        and "v1," in headers.get("webhook-signature", "")
        and (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16)
        and abs(moment.now_s - int(timestamp)) <= moment.age_s_max
    )


def _check_standard(
    hook: WebhookSettings, headers: Mapping[str, str], body: bytes, moment: Moment
) -> str:
    if not _is_standard(headers, moment):
        raise refusal()
    message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    signed = b"%b.%b.%b" % (message_id.encode("latin-1"), timestamp.encode(), body)
    digest = hmac.new(_key(hook.secret), signed, hashlib.sha256).digest()
    expected = f"v1,{base64.b64encode(digest).decode()}"
    # While a secret is being changed, a sender puts several signatures there.
    if not any(_equal(given, expected) for given in headers["webhook-signature"].split()):
        raise refusal()
    return message_id


def _key(secret: str) -> bytes:
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    return base64.b64decode(secret.removeprefix(_SECRET_PREFIX))


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("latin-1"), expected.encode("latin-1"))


def refusal() -> InvalidSignature:
    """One for all: what is wrong is told to nobody who might only be guessing."""
    return InvalidSignature(
        "there is no such webhook, or the request is not signed as it has to be: with "
        "X-Hub-Signature-256 (sha256= and the hex HMAC-SHA256 of the body), or with webhook-id, "
        "webhook-timestamp (in seconds, near the clock here) and webhook-signature (v1, and the "
        "base64 HMAC-SHA256 of id.timestamp.body), whichever the webhook is set up for; check its "
        "name, the scheme and the secret"
    )
