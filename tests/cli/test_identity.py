"""Who a request speaks for: keys, this machine, and a web page that is open on it."""

from __future__ import annotations

import pytest

from engine.base.errors import Unauthorized
from engine.cli.composing.identity import Identity
from engine.config.settings import ApiKey, AuthSettings
from engine.coordinator.ports import Peer

KEY = "sk_0123456789abcdef"
KEYED = AuthSettings(keys=(ApiKey(key=KEY, tenant_id="acme", project_id="shop"),))


def test_without_keys_this_machine_is_the_developer() -> None:
    context = Identity(AuthSettings()).of_request({}, "127.0.0.1")
    assert (context.tenant_id, context.project_id) == ("dev", "default")
    assert Identity(AuthSettings()).of_worker("", Peer("::1", 1)) == "dev"


@pytest.mark.parametrize("peer", [None, "10.0.0.7", "192.168.1.2", "not an address"])
def test_without_keys_nobody_else_is_let_in(peer: str | None) -> None:
    with pytest.raises(Unauthorized, match=r"auth\.keys"):
        Identity(AuthSettings()).of_request({}, peer)


@pytest.mark.parametrize("origin", ["https://evil.example", "http://10.0.0.7:34181", "null"])
def test_a_page_from_elsewhere_is_not_the_developer(origin: str) -> None:
    with pytest.raises(Unauthorized):
        Identity(AuthSettings()).of_request({"origin": origin}, "127.0.0.1")


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:34181"])
def test_a_page_of_this_machine_is(origin: str) -> None:
    assert Identity(AuthSettings()).of_request({"origin": origin}, "127.0.0.1").tenant_id == "dev"


@pytest.mark.parametrize("headers", [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}])
def test_a_key_speaks_for_its_tenant(headers: dict[str, str]) -> None:
    context = Identity(KEYED).of_request(headers, "10.0.0.7")
    assert (context.tenant_id, context.project_id) == ("acme", "shop")


@pytest.mark.parametrize(
    "headers", [{}, {"x-api-key": KEY + "0"}, {"authorization": f"Basic {KEY}"}]
)
def test_with_keys_everybody_needs_one(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthorized):
        Identity(KEYED).of_request(headers, "127.0.0.1")
    with pytest.raises(Unauthorized):
        Identity(KEYED).of_worker("", Peer("127.0.0.1", 1))
