"""Webhooks: only who has the secret, only now, and once."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

import msgspec
import pytest
import trio
import trio.testing

from engine.base.clock import ManualClock
from engine.base.ids import RunId
from engine.gateway.settings import GatewaySettings, WebhookSettings
from engine.model.context import AuthMode
from tests.gateway.conftest import CONTEXT, REFUSED_KEY, running
from tests.gateway.fake_handle import ECHO, WAIT

SECRET = "a-secret-of-some-length"
KEY = base64.b64encode(b"0123456789abcdef01234567").decode()
HOOKS = (
    WebhookSettings(name="orders", secret=SECRET, tenant_id="dev", component=ECHO, scheme="hub"),
    WebhookSettings(name="paid", secret=SECRET, tenant_id="dev", component=ECHO),
    WebhookSettings(
        name="go",
        secret=f"whsec_{KEY}",
        tenant_id="dev",
        signal="go",
        run_id_path="data.metadata.run_id",
    ),
)
NOW_S = ManualClock().now_ms() // 1_000
BODY = b'{"order":12}'


def hub(body: bytes, secret: str = SECRET) -> Mapping[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": "d1"}


def standard(
    body: bytes, *, key: bytes = SECRET.encode(), at_s: int = NOW_S, message_id: str = "m1"
) -> dict[str, str]:
    signed = f"{message_id}.{at_s}.".encode() + body
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": f"v1,{signature}",
    }


@pytest.mark.parametrize(("name", "sign"), [("orders", hub), ("paid", standard)])
async def test_a_signed_body_starts_a_run_once(name: str, sign: object) -> None:
    assert callable(sign)
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        # Who signs needs no key; one that is not known does not matter.
        headers = {**sign(BODY), "X-API-Key": REFUSED_KEY}
        first = await client.ask("POST", f"/v1/webhooks/{name}", BODY, headers)
        again = await client.ask("POST", f"/v1/webhooks/{name}", BODY, headers)
    assert (first.status, first.json["done"]) == (202, "started")
    assert again.json == first.json
    assert gateway.handle.only_run().request.input == BODY
    assert gateway.handle.contexts[0].auth_mode is AuthMode.WEBHOOK


async def test_a_signed_body_signals_the_run_it_names() -> None:
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        run_id = (await client.post(f"/v1/workflows/{WAIT}/submit")).json["run_id"]
        body = msgspec.json.encode({"data": {"metadata": {"run_id": run_id}}, "paid": True})
        headers = standard(body, key=base64.b64decode(KEY))
        answer = await client.ask("POST", "/v1/webhooks/go", body, headers)
        result = await client.get(f"/v1/result/{run_id}")
    assert answer.json == {"run_id": run_id, "done": "signalled"}
    assert result.json["output"]["paid"] is True
    run = gateway.handle.find(CONTEXT, RunId(bytes.fromhex(run_id.replace("-", ""))))
    assert len(run.entries) == 3


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("orders", {}),
        ("orders", hub(b"{}")),
        ("orders", hub(BODY, "another-secret-of-length")),
        ("orders", {"X-Hub-Signature-256": "sha256=\xff"}),
        ("paid", {}),
        ("paid", hub(BODY)),
        ("paid", standard(b"{}")),
        ("paid", standard(BODY, key=b"another-secret-of-length")),
        ("paid", standard(BODY, at_s=NOW_S - 301)),
        ("paid", standard(BODY, at_s=NOW_S + 301)),
        ("paid", standard(BODY) | {"webhook-id": "m2"}),
        ("paid", standard(BODY) | {"webhook-timestamp": str(NOW_S + 1)}),
        ("paid", standard(BODY) | {"webhook-timestamp": "x"}),
        ("paid", standard(BODY) | {"webhook-signature": "v1,"}),
    ],
)
async def test_who_does_not_have_the_secret_is_refused(name: str, headers: dict[str, str]) -> None:
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        answer = await client.ask("POST", f"/v1/webhooks/{name}", BODY, headers)
    assert (answer.status, answer.json["code"]) == (401, "invalid_signature")
    assert SECRET not in answer.body.decode()
    assert gateway.handle.contexts == []


async def test_one_of_several_signatures_is_enough() -> None:
    headers = standard(BODY)
    headers["webhook-signature"] = f"v1,b3RoZXI= {headers['webhook-signature']} v2,x"
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        assert (await client.ask("POST", "/v1/webhooks/paid", BODY, headers)).status == 202


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"data":1}',
        b"[]",
        b'{"data":{"metadata":{}}}',
        b'{"data":{"metadata":{"run_id":1e300}}}',
        b'{"data":{"metadata":{"run_id":{}}}}',
    ],
)
async def test_a_body_that_names_no_run(body: bytes) -> None:
    headers = standard(body, key=base64.b64decode(KEY))
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        answer = await client.ask("POST", "/v1/webhooks/go", body, headers)
    assert (answer.status, answer.json["code"]) == (422, "invalid_input")
    assert answer.json["errors"][0]["field"] == "data.metadata.run_id"


async def test_an_unknown_webhook() -> None:
    """One that is not set up and one whose signature is wrong cannot be told apart."""
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        for headers in ({}, standard(BODY), standard(b"{}"), hub(BODY), hub(b"{}")):
            unknown = await client.ask("POST", "/v1/webhooks/nope", BODY, headers)
            for name in ("orders", "paid"):
                known = await client.ask("POST", f"/v1/webhooks/{name}", BODY, headers)
                if known.status != 202:
                    assert (known.status, known.body) == (unknown.status, unknown.body)
            assert (unknown.status, unknown.json["code"]) == (401, "invalid_signature")


@pytest.mark.parametrize("name", ["nope", "orders", "paid"])
async def test_who_signs_nothing_is_refused_before_the_body(name: str) -> None:
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        await client.send_head("POST", f"/v1/webhooks/{name}", length=2_000_000)
        status, _ = await client.read_head()
    assert status == 401


@pytest.mark.parametrize("name", ["nope", "orders", "paid"])
async def test_who_signs_something_waits_for_it_to_be_held_against_the_body(name: str) -> None:
    headers = standard(b"{}") | hub(b"{}")
    async with running(webhooks=HOOKS) as gateway, gateway.client() as client:
        await client.send_head("POST", f"/v1/webhooks/{name}", length=4, headers=headers)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert gateway.handle.contexts == []
        await client.stream.send_all(b"null")
        status, _ = await client.read_head()
    assert status == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"component": ECHO, "signal": "go"},
        {},
        {"component": ECHO, "secret": "short"},
        {"component": ECHO, "secret": "whsec_not base 64 at all"},
        {"component": ECHO, "scheme": "none"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, str]) -> None:
    hook = {"name": "x", "secret": SECRET, "tenant_id": "dev", **wrong}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"webhooks": [hook]}, GatewaySettings)
