"""Who a request speaks for: keys, this machine, and a web page that is open on it."""

from __future__ import annotations

import msgspec
import pytest

from engine.base.errors import Unauthorized
from engine.cli.composing.identity import Identity
from engine.config.settings import ApiKey, AuthSettings
from engine.coordinator.ports import Peer

HERE = {"host": "localhost:34181"}
KEY = "sk_0123456789abcdef"
KEYED = AuthSettings(keys=(ApiKey(key=KEY, tenant_id="acme", project_id="shop"),))


def test_without_keys_this_machine_is_the_developer() -> None:
    context = Identity(AuthSettings()).of_request(HERE, "127.0.0.1")
    assert (context.tenant_id, context.project_id) == ("dev", "default")
    assert Identity(AuthSettings()).of_worker("", Peer("::1", 1)) == "dev"


@pytest.mark.parametrize("peer", [None, "10.0.0.7", "192.168.1.2", "not an address"])
def test_without_keys_nobody_else_is_let_in(peer: str | None) -> None:
    with pytest.raises(Unauthorized, match=r"auth\.keys"):
        Identity(AuthSettings()).of_request(HERE, peer)


def is_local(headers: dict[str, str], **settings: object) -> bool:
    identity = Identity(msgspec.convert(settings, AuthSettings))
    try:
        return identity.of_request(headers, "127.0.0.1").tenant_id == "dev"
    except Unauthorized:
        return False


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://10.0.0.7:34181",
        "null",
        "http://[",
        "http://[::1",
        "://",
        "x",
    ],
)
def test_a_page_from_elsewhere_is_not_the_developer(origin: str) -> None:
    assert not is_local({**HERE, "origin": origin})


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "http://127.0.0.1:34181", "https://[::1]:1"]
)
def test_a_page_of_this_machine_is(origin: str) -> None:
    assert is_local({**HERE, "origin": origin})
    # A page of localhost that asks 127.0.0.1 is from another site, to its browser.
    assert is_local({**HERE, "origin": origin, "sec-fetch-site": "cross-site"})


def test_what_a_page_elsewhere_embeds_is_not_asked_by_the_developer() -> None:
    assert not is_local({**HERE, "sec-fetch-site": "cross-site"})
    for site in ("same-origin", "same-site", "none"):
        assert is_local({**HERE, "sec-fetch-site": site})


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:34181", "127.0.0.1:8", "127.8.8.8", "[::1]:34181", "[::1]"]
)
def test_names_of_this_machine(host: str) -> None:
    assert is_local({"host": host})


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:34181",
        "127.0.0.1.evil.com",
        "localhost.evil.com",
        "localhost@evil.com",
        "evil.com, localhost",
        "0.0.0.0",
        "[::1",
        "[",
        "10.0.0.7",
        "",
    ],
)
def test_a_name_that_was_made_to_point_here_is_not(host: str) -> None:
    assert not is_local({"host": host})
    assert not is_local({"host": host, "sec-fetch-site": "same-origin"})


def test_more_names_can_be_allowed() -> None:
    assert is_local({"host": "box.test:34181"}, local_hosts=["Box.test"])
    assert not is_local({"host": "box.test"}, local_hosts=["other.test"])


@pytest.mark.parametrize(
    "header",
    ["forwarded", "via", "x-real-ip", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"],
)
def test_behind_a_proxy_nobody_is_the_developer(header: str) -> None:
    assert not is_local({**HERE, header: "127.0.0.1"})
    assert is_local({**HERE, header: "10.0.0.7"}, proxy_is_local=True)
    assert not is_local({"host": "evil.com", header: "10.0.0.7"}, proxy_is_local=True)


def test_with_keys_names_and_proxies_do_not_matter() -> None:
    headers = {"host": "evil.com", "x-forwarded-for": "::1", "origin": "null", "x-api-key": KEY}
    assert Identity(KEYED).of_request(headers, "10.0.0.7").tenant_id == "acme"


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
